//! Sends the message text after 354 (RFC 5321 §4.5.2): with dots stuffed, and with the terminator CRLF, dot, CRLF.
//!
//! The text is sent in chunks of bounded size, so that a message of 40 MiB needs no second 40 MiB. The terminator is in
//! the same chunk as the end of the message, because a second small write would be delayed by 40 ms (Nagle and delayed
//! ACK).

use memchr::memmem;
use tokio::time::Instant;

use crate::smtp::client::connection::wire::{Wire, WireError};
use crate::smtp::client::send_options::SendGuard;
use crate::smtp::client::settings::Timeouts;

/// Size of a chunk in bytes.
const CHUNK_BYTES: usize = 64 * 1_024;

/// Minimum rate in bytes per second; a slower server counts as a tarpit. The time limit for the whole message is
/// [`Timeouts::block`] plus its size divided by this rate.
const MIN_RATE: usize = 8 * 1_024;

/// Why the message was not written completely.
#[derive(Debug)]
pub(in crate::smtp) enum BodyError {
    /// The send guard withdrew the message.
    Withdrawn,
    /// The connection failed.
    Failed {
        /// Whether the server may have received the terminator, and so may have accepted the message.
        uncertain: bool,
        /// Why it failed.
        error: WireError,
    },
}

/// Writes the whole message and its terminator.
pub(in crate::smtp) async fn send(
    wire: &mut Wire,
    mime: &[u8],
    timeouts: &Timeouts,
    guard: &dyn SendGuard,
) -> Result<(), BodyError> {
    let total_deadline =
        Instant::now() + timeouts.block + std::time::Duration::from_secs((mime.len() / MIN_RATE) as u64);
    let mut chunks = Chunks::new(mime, CHUNK_BYTES);
    let mut is_first = true;
    while let Some(chunk) = chunks.next() {
        if chunk.terminator_at.is_some() && !is_first && !guard.may_finish() {
            return Err(BodyError::Withdrawn);
        }
        is_first = false;
        let deadline = total_deadline.min(Instant::now() + timeouts.block);
        wire.write(chunk.bytes, deadline).await.map_err(|failure| BodyError::Failed {
            uncertain: chunk.terminator_at.is_some_and(|at| failure.reached > at),
            error: failure.error,
        })?;
    }
    Ok(())
}

/// Cuts a message into dot-stuffed chunks.
struct Chunks<'a> {
    rest: &'a [u8],
    terminator: &'static [u8],
    at_line_start: bool,
    size: usize,
    buffer: Vec<u8>,
    done: bool,
}

/// Bytes to write at once.
#[derive(Debug)]
struct Chunk<'a> {
    bytes: &'a [u8],
    /// Start of the terminator, in the last chunk.
    terminator_at: Option<usize>,
}

impl<'a> Chunks<'a> {
    fn new(mime: &'a [u8], size: usize) -> Self {
        let ended = mime.is_empty() || mime.ends_with(b"\r\n");
        let terminator: &[u8] = if ended { b".\r\n" } else { b"\r\n.\r\n" };
        let buffer = Vec::with_capacity(size.min(mime.len() + mime.len() / 32) + 8);
        Self { rest: mime, terminator, at_line_start: true, size, buffer, done: false }
    }

    /// Returns the next chunk; `None` after the one with the terminator.
    fn next(&mut self) -> Option<Chunk<'_>> {
        if self.done {
            return None;
        }
        self.buffer.clear();
        while self.buffer.len() < self.size && !self.rest.is_empty() {
            self.step();
        }
        let mut terminator_at = None;
        if self.rest.is_empty() {
            terminator_at = Some(self.buffer.len());
            self.buffer.extend_from_slice(self.terminator);
            self.done = true;
        }
        Some(Chunk { bytes: &self.buffer, terminator_at })
    }

    /// Copies up to and including the next line end that is followed by a dot, or as much as fits.
    fn step(&mut self) {
        if self.at_line_start && self.rest.first() == Some(&b'.') {
            self.buffer.push(b'.');
        }
        let space = self.size.saturating_sub(self.buffer.len()).max(1).min(self.rest.len());
        let take = memmem::find(&self.rest[..space], b"\n.").map_or(space, |at| at + 1);
        let (piece, rest) = self.rest.split_at(take);
        self.buffer.extend_from_slice(piece);
        self.at_line_start = piece.ends_with(b"\n");
        self.rest = rest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(mime: &[u8], size: usize) -> Vec<u8> {
        let mut chunks = Chunks::new(mime, size);
        let mut encoded = Vec::new();
        while let Some(chunk) = chunks.next() {
            encoded.extend_from_slice(chunk.bytes);
        }
        encoded
    }

    /// Stuffs line by line, as described in RFC 5321 §4.5.2.
    fn reference_encoding(mime: &[u8]) -> Vec<u8> {
        let mut encoded = Vec::new();
        for line in mime.split_inclusive(|byte| *byte == b'\n') {
            if line.starts_with(b".") {
                encoded.push(b'.');
            }
            encoded.extend_from_slice(line);
        }
        if !mime.is_empty() && !mime.ends_with(b"\r\n") {
            encoded.extend_from_slice(b"\r\n");
        }
        encoded.extend_from_slice(b".\r\n");
        encoded
    }

    #[test]
    fn dots_at_line_starts_are_doubled_and_no_others() {
        assert_eq!(encoded(b".a\r\n..b\r\nc.d\r\n.\r\n", 64), b"..a\r\n...b\r\nc.d\r\n..\r\n.\r\n");
        assert_eq!(encoded(b"", 64), b".\r\n");
        assert_eq!(encoded(b"no line end", 64), b"no line end\r\n.\r\n");
    }

    #[test]
    fn the_end_and_the_terminator_share_a_chunk() {
        let mut chunks = Chunks::new(b"0123456789", 4);
        let mut sizes = Vec::new();
        while let Some(chunk) = chunks.next() {
            sizes.push((chunk.bytes.len(), chunk.terminator_at));
        }
        assert_eq!(sizes, [(4, None), (4, None), (7, Some(2))]);
    }

    proptest! {
        #[test]
        fn stuffing_follows_the_rfc_for_any_chunk_size(
            mime in prop::collection::vec(prop::sample::select(b".\r\nab".to_vec()), 0..200),
            size in 1_usize..50,
        ) {
            prop_assert_eq!(encoded(&mime, size), reference_encoding(&mime));
        }
    }
}
