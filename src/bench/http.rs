//! A minimal HTTP/1.1 client, so that the load generator takes little CPU from the service that is measured. It sends
//! one request at a time over a persistent connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Time limit of a request.
const LIMIT: Duration = Duration::from_mins(1);
/// Size limit of a response.
const ANSWER_LIMIT: usize = 1 << 20;

/// A connection to an API.
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    answer: Vec<u8>,
    /// Where the response's body begins.
    body: usize,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, answer: Vec::with_capacity(4_096), body: 0 })
    }

    /// Sends a request that is given in two parts, and returns the status. After an error the connection must not be
    /// used.
    pub(super) async fn exchange(&mut self, request: (&[u8], &[u8])) -> io::Result<u16> {
        tokio::time::timeout(LIMIT, async {
            self.stream.write_all(request.0).await?;
            if !request.1.is_empty() {
                self.stream.write_all(request.1).await?;
            }
            self.answer.clear();
            loop {
                if self.stream.read_buf(&mut self.answer).await? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                if let Some((status, body)) = complete(&self.answer)? {
                    self.body = body;
                    return Ok(status);
                }
            }
        })
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Sends any other request.
    pub(super) async fn call(&mut self, method: &str, path: &str, key: &str, body: &str) -> io::Result<u16> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.exchange((head.as_bytes(), body.as_bytes())).await
    }

    /// The last response's body.
    pub(super) fn body(&self) -> &[u8] {
        self.answer.get(self.body..).unwrap_or_default()
    }
}

/// The status and where the body begins, once the response is complete.
fn complete(answer: &[u8]) -> io::Result<Option<(u16, usize)>> {
    let odd = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, why);
    if answer.len() > ANSWER_LIMIT {
        return Err(odd("the response is too large"));
    }
    let Some(end) = memmem::find(answer, b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..end]).map_err(|_| odd("the response's head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.get(9..12)?.parse().ok()).ok_or_else(|| odd("not HTTP"))?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .ok_or_else(|| odd("the response has no length"))?;
    let body = end + 4;
    Ok((answer.len() >= body + length).then_some((status, body)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_complete_with_its_last_octet() {
        let answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 3\r\nx: y\r\n\r\n{ }";
        assert_eq!(complete(answer).unwrap(), Some((202, answer.len() - 3)));
        for end in 0..answer.len() {
            assert_eq!(complete(&answer[..end]).unwrap(), None, "{end}");
        }
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err() && complete(b"SSH\r\n\r\n").is_err());
    }
}
