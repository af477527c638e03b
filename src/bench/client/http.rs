//! A minimal HTTP/1.1 client, so that the load generator takes little CPU from the measured service. It sends one
//! request at a time over a persistent connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Time limit of a request.
const LIMIT: Duration = Duration::from_mins(1);
/// Size limit of a response.
const RESPONSE_LIMIT: usize = 16 << 20;

/// A connection to an API.
#[derive(Debug)]
pub(in crate::bench) struct Connection {
    stream: TcpStream,
    response: Vec<u8>,
    /// The position at which the response's body begins.
    body: usize,
}

impl Connection {
    pub(in crate::bench) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, response: Vec::with_capacity(4_096), body: 0 })
    }

    /// Sends a request, given in two parts, and returns the status. After an error, the caller must drop the
    /// connection.
    pub(in crate::bench) async fn exchange(&mut self, request: (&[u8], &[u8])) -> io::Result<u16> {
        tokio::time::timeout(LIMIT, async {
            self.stream.write_all(request.0).await?;
            if !request.1.is_empty() {
                self.stream.write_all(request.1).await?;
            }
            self.response.clear();
            loop {
                if self.stream.read_buf(&mut self.response).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((status, body)) = complete(&self.response)? {
                    self.body = body;
                    return Ok(status);
                }
            }
        })
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Sends a request with a JSON body, and returns the status.
    pub(in crate::bench) async fn call(&mut self, method: &str, path: &str, key: &str, body: &str) -> io::Result<u16> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange((head.as_bytes(), body.as_bytes())).await
    }

    /// Returns the last response's body.
    pub(in crate::bench) fn body(&self) -> &[u8] {
        self.response.get(self.body..).unwrap_or_default()
    }
}

/// Returns the status and the position of the body, once the response is complete.
fn complete(response: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let invalid = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    if response.len() > RESPONSE_LIMIT {
        return Err(invalid("the response is too large"));
    }
    let Some(end) = memmem::find(response, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&response[..end]).map_err(|_| invalid("the response's head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(|| invalid("not HTTP"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(|| invalid("the response has no length"))?;
    let body = end + 4;
    Ok((response.len() >= body + length).then_some((status, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn response_is_complete_with_its_last_byte() {
        let response = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nx: y\r\n\r\n{ }";
        assert_eq!(complete(response).unwrap(), Some((202, response.len() - 3)));
        for end in 0..response.len() {
            assert_eq!(complete(&response[..end]).unwrap(), None, "{end}");
        }
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err() && complete(b"SSH\r\n\r\n").is_err());
    }
}
