//! What the errors of a dialed connection mean, in words that say what to do.
//!
//! They reach us as text alone: on its way up through HTTP/2 an error of TLS loses its type.

/// The error in other words, if it is one of TLS.
pub(in crate::transport) fn explain(error: &str) -> Option<String> {
    if let Some(alert) = alert(error) {
        return Some(format!("the peer refused our certificate: {alert}"));
    }
    if let Some((_, why)) = error.split_once("invalid peer certificate: ") {
        let why = match why {
            "UnknownIssuer" => "it is not of the CA in our peer_tls_ca",
            why => why,
        };
        return Some(format!("we refuse the peer's certificate: {why}"));
    }
    if error.contains("InvalidContentType") {
        let advice = "set its peer_tls_cert, peer_tls_key and peer_tls_ca, or unset ours";
        return Some(format!("the peer answers without TLS: {advice}"));
    }
    if error.contains("this port speaks TLS") {
        let advice = "set peer_tls_cert, peer_tls_key and peer_tls_ca here too";
        return Some(format!("the peer speaks TLS, and this end does not: {advice}"));
    }
    error.contains("tls handshake eof").then(|| {
        "the peer closed the connection during the TLS handshake; its log says why".to_owned()
    })
}

/// Why the other end refused a certificate, from the alert that it sent (RFC 8446, 6.2).
pub(super) fn alert(error: &str) -> Option<&'static str> {
    let (_, alert) = error.split_once("received fatal alert: ")?;
    let name = alert.split(|c: char| !c.is_alphanumeric()).next()?;
    Some(match name {
        "UnknownCA" => "it is not of the CA that the other end trusts (UnknownCA)",
        "CertificateRequired" => "it requires one, and none was shown (CertificateRequired)",
        "CertificateExpired" => "it has expired, or is not valid yet (CertificateExpired)",
        "CertificateUnknown" => "it does not name the node that it should (CertificateUnknown)",
        "BadCertificate" => "it is not valid for this name, or malformed (BadCertificate)",
        "UnsupportedCertificate" => "it is not meant for this use (UnsupportedCertificate)",
        "DecryptError" => "its signature is wrong (DecryptError)",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_tls_are_told_from_others() {
        for (error, said) in [
            ("transport error: received fatal alert: UnknownCA", "refused our certificate: it is"),
            ("x: invalid peer certificate: UnknownIssuer", "not of the CA in our peer_tls_ca"),
            ("received corrupt message of type InvalidContentType", "answers without TLS"),
            ("error received: (b\"this port speaks TLS; ..\")", "and this end does not"),
            ("tls handshake eof", "its log says why"),
        ] {
            assert!(explain(error).unwrap().contains(said), "{error}");
        }
        assert_eq!(explain("connection refused"), None);
        assert_eq!(explain("received fatal alert: HandshakeFailure"), None);
    }
}
