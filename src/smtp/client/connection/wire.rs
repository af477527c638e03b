//! One connection as a stream of bytes: a bounded input buffer, the replies read from it, and writes that report how
//! many bytes were sent.
//!
//! Every call has one deadline for the whole operation, which a server cannot extend by sending single bytes.

use std::fmt::Display;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::client::TlsStream;

use super::reply::{LINE_LIMIT, REPLY_LIMIT, RawReply, ReplyError, ReplyReader};
use super::transcript::Transcript;
use super::words;

/// Size of the buffer, twice the line limit: [`ReplyReader`] consumes the beginning of a line that is too long before
/// the buffer is full.
const BUFFER: usize = LINE_LIMIT * 2;

/// Maximum lines or replies that are skipped while waiting for the reply to the final dot.
const MAX_SKIPPED: usize = 20;

/// The reply to the final dot.
#[derive(Debug)]
pub(in crate::smtp) struct FinalReply {
    pub reply: RawReply,
    /// Whether the reply was valid, so that the connection can be used again.
    pub is_clean: bool,
}

/// Why the connection can no longer be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::smtp) enum WireError {
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// The operating system or the TLS layer reported an error.
    #[error("the connection broke: {}", words::io(.0))]
    Io(#[from] io::Error),
    /// The deadline passed.
    #[error("the server took too long")]
    TimedOut,
    /// The server does not speak SMTP.
    #[error("the server's reply could not be understood: {0}")]
    Garbled(#[from] ReplyError),
}

impl WireError {
    /// Returns whether the server had disconnected, as servers do when a connection has been idle for too long.
    pub fn is_disconnect(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }
}

/// A write that did not complete.
#[derive(Debug)]
pub(in crate::smtp) struct WriteError {
    /// Upper bound of the bytes of this write that the server received.
    pub reached: usize,
    /// Why the write failed.
    pub error: WireError,
}

/// The transport of a connection.
pub(in crate::smtp) enum Link {
    /// Plain text.
    Plain(TcpStream),
    /// TLS.
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection and the bytes read ahead from it.
pub(in crate::smtp) struct Wire {
    link: Link,
    /// The conversation of the current message.
    pub transcript: Transcript,
    buffer: Box<[u8; BUFFER]>,
    start: usize,
    end: usize,
}

impl Wire {
    pub fn new(link: Link, transcript: Transcript) -> Self {
        Self { link, transcript, buffer: Box::new([0; BUFFER]), start: 0, end: 0 }
    }

    /// Returns whether unsolicited bytes have been read.
    pub fn has_leftovers(&self) -> bool {
        self.start < self.end
    }

    /// Returns the unsolicited bytes that have been read.
    pub fn leftovers(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Returns the transport and drops the bytes read ahead; see [`Self::has_leftovers`].
    pub fn into_link(self) -> Link {
        self.link
    }

    /// Reads one reply, and records it.
    pub async fn reply(&mut self, deadline: Instant) -> Result<RawReply, WireError> {
        let reply = self.unrecorded_reply(deadline).await?;
        self.transcript.received(&reply);
        Ok(reply)
    }

    async fn unrecorded_reply(&mut self, deadline: Instant) -> Result<RawReply, WireError> {
        Ok(self.read_reply(&mut ReplyReader::default(), deadline).await?.unambiguous()?)
    }

    /// Reads the reply to the final dot. A missed reply leads to a duplicate, so the code of any line decides, even if
    /// the reply has no end. Lines that are not replies, and 3yz replies, are skipped if another reply follows within
    /// `grace`. Records the reply.
    pub async fn final_reply(&mut self, deadline: Instant, grace: Duration) -> Result<FinalReply, WireError> {
        let found = self.unrecorded_final_reply(deadline, grace).await?;
        self.transcript.received(&found.reply);
        Ok(found)
    }

    async fn unrecorded_final_reply(&mut self, deadline: Instant, grace: Duration) -> Result<FinalReply, WireError> {
        let (mut until, mut is_clean) = (deadline, true);
        let mut first_error = None;
        for _ in 0..MAX_SKIPPED {
            let mut reader = ReplyReader::default();
            match self.read_reply(&mut reader, until).await {
                Ok(reply) if reply.is_intermediate() => {}
                Ok(reply) => {
                    is_clean &= reply.first_code / 100 == reply.code / 100;
                    return Ok(FinalReply { reply, is_clean });
                }
                Err(error) => match (reader.so_far(&self.buffer[self.start..self.end]), error) {
                    (Some(reply), _) if !reply.is_intermediate() => return Ok(FinalReply { reply, is_clean: false }),
                    (None, WireError::Garbled(error @ ReplyError::NoCode(_))) => {
                        until = until.min(Instant::now() + grace);
                        first_error.get_or_insert(WireError::Garbled(error));
                        if let Err(error) = self.skip_line(until).await {
                            return Err(first_error.unwrap_or(error));
                        }
                    }
                    (_, error) => return Err(first_error.unwrap_or(error)),
                },
            }
            until = until.min(Instant::now() + grace);
            is_clean = false;
        }
        Err(first_error.unwrap_or(WireError::TimedOut))
    }

    /// Skips the rest of a line, up to the maximum length of a reply.
    async fn skip_line(&mut self, deadline: Instant) -> Result<(), WireError> {
        let mut skipped = 0;
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.start..self.end]) {
                self.start += end + 1;
                return Ok(());
            }
            skipped += self.end - self.start;
            if skipped > REPLY_LIMIT {
                return Err(ReplyError::TooLong.into());
            }
            self.start = self.end;
            self.fill(deadline).await?;
        }
    }

    async fn read_reply(&mut self, reader: &mut ReplyReader, deadline: Instant) -> Result<RawReply, WireError> {
        loop {
            let (used, reply) = reader.feed(&self.buffer[self.start..self.end])?;
            self.start += used;
            if let Some(reply) = reply {
                return Ok(reply);
            }
            self.fill(deadline).await?;
        }
    }

    async fn fill(&mut self, deadline: Instant) -> Result<(), WireError> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = self.link.read(&mut self.buffer[self.end..]);
        let count = timeout_at(deadline, read).await.map_err(|_| WireError::TimedOut)??;
        if count == 0 {
            return Err(WireError::Closed);
        }
        self.end += count;
        Ok(())
    }

    /// Writes all of `bytes` and flushes. Records nothing: the caller records what may be shown.
    pub async fn write(&mut self, bytes: &[u8], deadline: Instant) -> Result<(), WriteError> {
        let mut done = 0;
        let written = timeout_at(deadline, async {
            while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
                match self.link.write(rest).await? {
                    0 => return Err(io::ErrorKind::WriteZero.into()),
                    count => done += count,
                }
            }
            self.link.flush().await
        });
        let error = match written.await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => WireError::Io(error),
            Err(_) => WireError::TimedOut,
        };
        // A TLS stream buffers: a failed write may have sent any part of its input.
        let reached = if matches!(self.link, Link::Tls(_)) { bytes.len() } else { done };
        Err(WriteError { reached, error })
    }

    /// Sends a command and reads its reply within `wait`. Records both.
    pub async fn command(&mut self, command: impl Display, wait: Duration) -> Result<RawReply, WireError> {
        let deadline = Instant::now() + wait;
        let command = command.to_string();
        self.transcript.sent(&command);
        self.write(command.as_bytes(), deadline).await.map_err(|failure| failure.error)?;
        self.reply(deadline).await
    }

    /// Sends a command with credentials and reads its reply within `wait`. Records neither.
    pub async fn secret_command(&mut self, command: &str, wait: Duration) -> Result<RawReply, WireError> {
        let deadline = Instant::now() + wait;
        self.write(command.as_bytes(), deadline).await.map_err(|failure| failure.error)?;
        self.unrecorded_reply(deadline).await
    }

    /// Reads and discards input until the server has closed the connection.
    pub async fn read_to_close(&mut self) -> Result<(), WireError> {
        while self.link.read(&mut self.buffer[..]).await? > 0 {}
        Ok(())
    }

    /// Returns whether the connection is open and has no unread input. Makes a system call and never waits.
    pub fn is_quiet(&mut self) -> bool {
        !self.has_leftovers() && self.link.read(&mut [0; 1]).now_or_never().is_none()
    }
}

impl AsyncRead for Link {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::net::TcpListener;
    use tokio::runtime::Runtime;

    use super::super::corrupt_replies;
    use super::*;

    /// Returns a connection and its other end.
    async fn pair() -> (Wire, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (Wire::new(Link::Plain(near.unwrap()), Transcript::default()), far.unwrap().0)
    }

    /// Reads all replies of a server; returns them and the error that ended the stream.
    async fn listen(pieces: Vec<Vec<u8>>) -> (Vec<RawReply>, WireError) {
        let (mut wire, mut far) = pair().await;
        let deadline = Instant::now() + Duration::from_secs(10);
        let listening = async {
            let mut replies = Vec::new();
            loop {
                match wire.reply(deadline).await {
                    Ok(reply) => replies.push(reply),
                    Err(error) => return (replies, error),
                }
            }
        };
        let sending = async {
            for piece in pieces {
                // The reader may have stopped.
                let _ = far.write_all(&piece).await;
                tokio::task::yield_now().await;
            }
            let _ = far.shutdown().await;
        };
        tokio::join!(listening, sending).0
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn reading_a_corrupt_stream_ends(pieces in corrupt_replies::pieces()) {
            let bytes = pieces.concat().len();
            let (replies, end) = Runtime::new().unwrap().block_on(listen(pieces));
            prop_assert!(replies.len() <= bytes / 4);
            prop_assert!(matches!(end, WireError::Closed | WireError::Garbled(_)), "{end}");
        }
    }
}
