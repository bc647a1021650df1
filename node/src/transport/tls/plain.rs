//! What a client without TLS hears on a port with TLS, in the language that it speaks.
//!
//! Silence, or a TLS alert that it takes for a broken frame, would tell nobody what is wrong.

/// HTTP/2 SETTINGS, empty; RFC 9113, 6.5.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// HTTP/2 GOAWAY; RFC 9113, 6.8.
const GOAWAY: u8 = 7;

/// The error code "the transport does not meet security requirements"; RFC 9113, 7.
const INADEQUATE_SECURITY: u32 = 0xc;

/// Every TLS connection begins with a handshake record; RFC 8446, 5.1.
const HANDSHAKE_RECORD: u8 = 22;

/// The words. `kv-cli` and the SDK have better ones, since they know their own options.
pub(super) const REASON: &str = "this port speaks TLS; connect with TLS, and trust its CA";

/// The answer to a connection that begins with this byte; none if that may be TLS.
pub(super) fn answer(first: u8) -> Option<Vec<u8>> {
    match first {
        HANDSHAKE_RECORD => None,
        // "PRI * HTTP/2.0".
        b'P' => Some(go_away()),
        _ => {
            let length = REASON.len() + 1;
            let head = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\
                        content-type: text/plain\r\n";
            Some(format!("{head}content-length: {length}\r\n\r\n{REASON}\n").into_bytes())
        }
    }
}

fn go_away() -> Vec<u8> {
    let length = u8::try_from(8 + REASON.len()).expect("the reason is one short sentence");
    let mut bytes = SETTINGS.to_vec();
    bytes.extend([0, 0, length, GOAWAY, 0, 0, 0, 0, 0]);
    // No stream was begun.
    bytes.extend(0_u32.to_be_bytes());
    bytes.extend(INADEQUATE_SECURITY.to_be_bytes());
    bytes.extend(REASON.as_bytes());
    bytes
}
