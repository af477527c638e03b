//! Collects a message that arrives in chunks of a declared size (BDAT, RFC 3030). Their bytes are never searched for an end
//! or for commands. A message with a bare CR or LF is refused, as after DATA.

use super::data::{DataFault, Stored};

/// Collects the chunks of one message.
#[derive(Debug)]
pub(super) struct ChunkReader {
    stored: Stored,
    /// Whether the last byte was a CR, so that the next one must be LF.
    is_after_return: bool,
    ends_with_line_end: bool,
}

impl ChunkReader {
    /// Creates a reader for a message of at most `limit` bytes, which stores the first `max_stored` of them.
    pub(super) fn new(limit: usize, max_stored: usize) -> Self {
        Self { stored: Stored::new(limit, max_stored), is_after_return: false, ends_with_line_end: true }
    }

    /// Adds bytes of a chunk. Where a chunk begins or ends has no meaning.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let is_line_feed = *byte == b'\n';
            if self.is_after_return != is_line_feed {
                self.stored.refuse(DataFault::BareLineBreak);
            }
            self.ends_with_line_end = is_line_feed;
            self.is_after_return = *byte == b'\r';
        }
        self.stored.append(bytes);
    }

    /// Returns the bytes of memory that the message takes.
    pub(super) fn capacity(&self) -> usize {
        self.stored.capacity()
    }

    /// Refuses the message, and frees its memory.
    pub(super) fn refuse(&mut self, fault: DataFault) {
        self.stored.refuse(fault);
    }

    /// Returns the reason why the message is refused, if it is.
    pub(super) fn fault(&self) -> Option<DataFault> {
        self.stored.fault()
    }

    /// Returns the stored bytes of the message, once its last chunk has arrived. A line end is added to a last line without
    /// one.
    pub(super) fn finish(mut self) -> Result<Vec<u8>, DataFault> {
        if self.is_after_return {
            self.stored.refuse(DataFault::BareLineBreak);
        }
        if !self.ends_with_line_end {
            self.stored.append(b"\r\n");
        }
        self.stored.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(chunks: &[&[u8]], limit: usize) -> Result<Vec<u8>, DataFault> {
        let mut reader = ChunkReader::new(limit, limit);
        for chunk in chunks {
            reader.push(chunk);
        }
        reader.finish()
    }

    #[test]
    fn dots_and_final_dots_are_content() {
        let message = b"..a\r\n.\r\nRSET\r\n";
        assert_eq!(read(&[message], 100), Ok(message.to_vec()));
        assert_eq!(read(&[b"a\r", b"\nb"], 100), Ok(b"a\r\nb\r\n".to_vec()));
        assert_eq!(read(&[], 100), Ok(Vec::new()));
    }

    #[test]
    fn bare_line_breaks_are_refused() {
        for chunks in [[b"a\n".as_slice(), b""], [b"a\r", b"b"], [b"a", b"\nb"], [b"a\r", b""], [b"\r\r\n", b""]] {
            assert_eq!(read(&chunks, 100), Err(DataFault::BareLineBreak), "{chunks:?}");
        }
    }

    #[test]
    fn the_limit_counts_all_chunks() {
        assert_eq!(read(&[b"ab", b"c\r\n"], 5), Ok(b"abc\r\n".to_vec()));
        assert_eq!(read(&[b"ab", b"cd\r\n"], 5), Err(DataFault::TooBig));
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(
            bytes in prop::collection::vec(prop::sample::select(b".\r\na".to_vec()), 0..40),
            cut in 1_usize..7,
        ) {
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let found = read(&chunks, 1_000);
            prop_assert_eq!(&found, &read(&[&bytes], 1_000));
            let text = String::from_utf8(bytes).unwrap();
            let is_bare = text.replace("\r\n", "").contains(['\r', '\n']);
            prop_assert_eq!(found.is_err(), is_bare);
        }
    }
}
