//! HTTP as bytes on a socket, for requests that no library can send.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(20);

/// A connection to the API.
pub struct Raw(pub TcpStream);

impl Raw {
    /// Connects to the API at `base`, a URL without a path.
    pub async fn connect(base: &str) -> Self {
        Self(TcpStream::connect(base.trim_start_matches("http://")).await.expect("a connection"))
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("sent");
    }

    /// Reads until the server closes the connection.
    pub async fn rest(&mut self) -> String {
        let mut bytes = Vec::new();
        // Bytes that arrived before a reset are returned.
        let _ = tokio::time::timeout(LIMIT, self.0.read_to_end(&mut bytes)).await.expect("an end");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Reads one response with its body, whose length is in `Content-Length`.
    pub async fn response(&mut self) -> String {
        let mut response = self.head().await;
        let length = response.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        tokio::time::timeout(LIMIT, self.0.read_exact(&mut body))
            .await
            .expect("a body in time")
            .expect("a complete body");
        response.push_str(&String::from_utf8_lossy(&body));
        response
    }

    /// Reads the head of one response, but not its body.
    pub async fn head(&mut self) -> String {
        let mut bytes = Vec::new();
        let read = async {
            while !bytes.ends_with(b"\r\n\r\n") {
                match self.0.read_u8().await {
                    Ok(byte) => bytes.push(byte),
                    Err(_) => break,
                }
            }
        };
        tokio::time::timeout(LIMIT, read).await.expect("a response");
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Sends these bytes on a new connection, and returns all bytes until the server closes it.
pub async fn exchange(base: &str, bytes: impl AsRef<[u8]>) -> String {
    let mut raw = Raw::connect(base).await;
    raw.send(bytes).await;
    raw.rest().await
}

/// Returns the status of a response; 0 if there is none.
pub fn status(response: &str) -> u16 {
    response.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
}
