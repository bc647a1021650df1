//! Accepting connections, from clients and from peers.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

/// Listens on `address` ("host:port"; port 0: any free one), and tells where.
pub async fn bind(address: &str) -> io::Result<(TcpIncoming, SocketAddr)> {
    let listener = TcpListener::bind(address).await?;
    let local = listener.local_addr()?;
    Ok((incoming(listener), local))
}

/// The connections of `listener`, for tonic's `serve_with_incoming`.
///
/// That ignores the server's own `tcp_nodelay`, so it is set here: without it a small answer waits
/// up to 40 ms for the acknowledgement of the one before.
pub fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;
    use tokio_stream::StreamExt as _;

    use super::*;

    #[tokio::test]
    async fn accepted_connections_do_not_delay() {
        let (mut incoming, address) = bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let accepted = incoming.next().await.unwrap().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
