//! The stream of one session: buffered input and output, with a time limit on each wait.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// Bytes read from the socket at a time.
const READ_SIZE: usize = 16 << 10;

/// Maximum length of a reply line's text, which keeps the line within RFC 5321 §4.5.3.1.5.
const TEXT_LIMIT: usize = 480;

/// A buffered stream.
pub(super) struct Wire<S> {
    stream: S,
    /// Bytes read and not yet consumed.
    pub(super) input: Vec<u8>,
    output: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: Vec::new(), output: Vec::new() }
    }

    /// Buffers a reply; the next [`flush`](Self::flush) sends it.
    pub(super) fn reply(&mut self, code: u16, text: &str) {
        self.line(code, b' ', text);
    }

    /// Buffers a reply of several lines, such as the reply to EHLO.
    pub(super) fn reply_lines(&mut self, code: u16, lines: &[&str]) {
        for (index, text) in lines.iter().enumerate() {
            self.line(code, if index + 1 < lines.len() { b'-' } else { b' ' }, text);
        }
    }

    fn line(&mut self, code: u16, separator: u8, text: &str) {
        self.output.extend_from_slice(code.to_string().as_bytes());
        self.output.push(separator);
        // A handler's text may quote anything. A line break in it would start another reply.
        let plain = text.bytes().map(|byte| if (b' '..=b'~').contains(&byte) { byte } else { b'?' });
        self.output.extend(plain.take(TEXT_LIMIT));
        self.output.extend_from_slice(b"\r\n");
    }

    /// Sends all buffered replies in one write.
    pub(super) async fn flush(&mut self, deadline: Instant) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        timeout_at(deadline, self.stream.write_all(&self.output)).await??;
        self.output.clear();
        Ok(())
    }

    /// Reads more bytes; the end of the stream is an error. Cancel-safe: no bytes are lost.
    pub(super) async fn fill(&mut self, deadline: Instant) -> io::Result<()> {
        self.input.reserve(READ_SIZE);
        match timeout_at(deadline, self.stream.read_buf(&mut self.input)).await?? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Returns the stream; buffered input is discarded.
    pub(super) fn into_stream(self) -> S {
        self.stream
    }

    /// Closes the write side after the last reply, so that the client reads it.
    pub(super) async fn close(mut self, deadline: Instant) {
        // Best effort: the client may have disconnected.
        let _ = self.flush(deadline).await;
        let _ = timeout_at(deadline, self.stream.shutdown()).await;
    }
}
