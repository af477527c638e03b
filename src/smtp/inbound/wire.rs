//! The stream of one session: bytes read but not yet used, replies written but not yet sent, and a limit on each wait.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes asked of the socket at a time.
const READ: usize = 16 << 10;

/// The longest text of a reply line, so that the line stays within RFC 5321 §4.5.3.1.5.
const TEXT_LIMIT: usize = 480;

/// A buffered stream.
pub(super) struct Wire<S> {
    stream: S,
    /// What was read and not yet used.
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new() }
    }

    /// Notes a reply; it leaves with the next [`flush`](Self::flush).
    pub(super) fn say(&mut self, code: u16, text: &str) {
        self.line(code, b' ', text);
    }

    /// Notes a reply of several lines, such as the one to EHLO.
    pub(super) fn say_lines(&mut self, code: u16, lines: &[&str]) {
        for (index, text) in lines.iter().enumerate() {
            self.line(code, if index + 1 < lines.len() { b'-' } else { b' ' }, text);
        }
    }

    fn line(&mut self, code: u16, separator: u8, text: &str) {
        self.output.extend_from_slice(code.to_string().as_bytes());
        self.output.push(separator);
        // A handler's words may quote anything, and a line break in them would be a reply of its own.
        let plain = text.bytes().map(|byte| if (b' '..=b'~').contains(&byte) { byte } else { b'?' });
        self.output.extend(plain.take(TEXT_LIMIT));
        self.output.extend_from_slice(b"\r\n");
    }

    /// Sends all noted replies in one write.
    pub(super) async fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        timeout_at(deadline, self.stream.write_all(&self.output)).await??;
        self.output.clear();
        Ok(())
    }

    /// Reads more; the end of the stream is an error. May be dropped at any time without losing bytes.
    pub(super) async fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        self.input.reserve(READ);
        match timeout_at(deadline, self.stream.read_buf(&mut self.input)).await?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// The stream alone: what was read and not yet used is forgotten.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Tells the client that nothing more will come, so that it reads the last reply.
    pub(super) async fn close(mut self, deadline: Instant) {
        // Best effort: the client may be gone already.
        let _ = self.flush(deadline).await;
        let _ = timeout_at(deadline, self.stream.shutdown()).await;
    }
}
