//! Reads one message from bytes (RFC 5321 §4.5.2): it ends at `CRLF . CRLF` only, and stuffed dots are removed.
//!
//! Only the first bytes of a large message are stored; the rest is skipped.
//!
//! A message with a bare CR or LF is read to its true end and refused (§2.3.8): another server might treat `LF . LF` as
//! the end, and the rest of the message as commands.

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataFault {
    /// It contains a CR or LF without the other.
    BareLineBreak,
    /// It has more bytes than allowed.
    TooBig,
    /// There was no memory for it in time.
    NoMemory,
}

/// The stored bytes of a message, up to its limits.
#[derive(Debug)]
pub(super) struct Stored {
    data: Vec<u8>,
    /// Bytes of the message so far, including those that are not stored.
    size: usize,
    limit: usize,
    /// Maximum bytes to store.
    capacity: usize,
    fault: Option<DataFault>,
}

impl Stored {
    pub(super) fn new(limit: usize, max_stored: usize) -> Self {
        Self { data: Vec::new(), size: 0, limit, capacity: max_stored, fault: None }
    }

    pub(super) fn append(&mut self, bytes: &[u8]) {
        if self.fault.is_some() {
            return;
        }
        self.size += bytes.len();
        if self.size > self.limit {
            self.refuse(DataFault::TooBig);
        } else {
            let space = self.capacity - self.data.len();
            self.data.extend_from_slice(bytes.get(..space).unwrap_or(bytes));
        }
    }

    /// Records the first fault and frees the memory; the rest is skipped.
    pub(super) fn refuse(&mut self, fault: DataFault) {
        self.fault.get_or_insert(fault);
        self.data = Vec::new();
    }

    pub(super) fn fault(&self) -> Option<DataFault> {
        self.fault
    }

    pub(super) fn capacity(&self) -> usize {
        self.data.capacity()
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, DataFault> {
        self.fault.map_or(Ok(self.data), Err)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// After CRLF, or at the very start.
    LineStart,
    /// After a dot that began a line.
    Dot,
    /// After `. CR` that began a line.
    DotReturn,
    /// After a CR inside a line.
    Return,
    /// Inside a line.
    Text,
}

/// Reads one message from the bytes after 354.
#[derive(Debug)]
pub(super) struct DataReader {
    position: Position,
    stored: Stored,
}

impl DataReader {
    /// Creates a reader for a message of at most `limit` bytes, which stores the first `max_stored` of them.
    pub(super) fn new(limit: usize, max_stored: usize) -> Self {
        Self { position: Position::LineStart, stored: Stored::new(limit, max_stored) }
    }

    /// Consumes the bytes that belong to the message; returns how many, and whether its end was reached.
    pub(super) fn push(&mut self, input: &[u8]) -> (usize, bool) {
        let mut next = 0;
        while let Some(&byte) = input.get(next) {
            match (self.position, byte) {
                (Position::DotReturn, b'\n') => return (next + 1, true),
                (Position::Return, b'\n') => {
                    self.stored.append(b"\r\n");
                    self.position = Position::LineStart;
                }
                // The same byte is processed again, as text.
                (Position::DotReturn | Position::Return, _) => {
                    self.stored.refuse(DataFault::BareLineBreak);
                    self.position = Position::Text;
                    continue;
                }
                (Position::LineStart, b'.') => self.position = Position::Dot,
                (Position::Dot, b'\r') => self.position = Position::DotReturn,
                (Position::LineStart | Position::Text, b'\r') => self.position = Position::Return,
                (_, b'\n') => {
                    self.stored.refuse(DataFault::BareLineBreak);
                    self.position = Position::Text;
                }
                (_, _) => {
                    let rest = input.get(next..).unwrap_or_default();
                    let run = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
                    self.stored.append(rest.get(..run).unwrap_or_default());
                    self.position = Position::Text;
                    next += run;
                    continue;
                }
            }
            next += 1;
        }
        (next, false)
    }

    /// Returns the bytes of memory that the message takes.
    pub(super) fn capacity(&self) -> usize {
        self.stored.capacity()
    }

    /// Refuses the message, and frees its memory.
    pub(super) fn refuse(&mut self, fault: DataFault) {
        self.stored.refuse(fault);
    }

    /// Returns the stored bytes of the message. Called once the end of the message was reached.
    pub(super) fn finish(self) -> Result<Vec<u8>, DataFault> {
        self.stored.finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Message = Result<Vec<u8>, DataFault>;

    /// Returns the result for a message, and the bytes left for the next command.
    fn read(chunks: &[&[u8]], limit: usize) -> Option<(Message, Vec<u8>)> {
        read_prefix(chunks, limit, limit)
    }

    fn read_prefix(chunks: &[&[u8]], limit: usize, max_stored: usize) -> Option<(Message, Vec<u8>)> {
        let mut reader = DataReader::new(limit, max_stored);
        let mut chunks = chunks.iter();
        while let Some(chunk) = chunks.next() {
            let (used, done) = reader.push(chunk);
            if done {
                let mut left = chunk[used..].to_vec();
                left.extend(chunks.flat_map(|chunk| chunk.to_vec()));
                return Some((reader.finish(), left));
            }
            assert_eq!(used, chunk.len());
        }
        None
    }

    fn whole(bytes: &[u8]) -> Option<Message> {
        read(&[bytes], 1_000).map(|(data, _)| data)
    }

    #[test]
    fn dots_at_line_starts_are_unstuffed() {
        let message = whole(b"..\r\n...\r\na.b\r\n.x\r\n.\r\n").expect("an end").expect("a message");
        assert_eq!(message, b".\r\n..\r\na.b\r\nx\r\n");
    }

    #[test]
    fn an_empty_message_is_a_message() {
        assert_eq!(whole(b".\r\n"), Some(Ok(vec![])));
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        for end in
            ["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r.\r\n", "\r\n.\r", "\r\n.\r.\r\n", "\r\n\0.\r\n", "\r\n. \r\n"]
        {
            let bytes = format!("a{end}MAIL FROM:<evil@x.test>\r\n");
            assert_eq!(whole(bytes.as_bytes()), None, "{end:?}");
        }
    }

    #[test]
    fn a_message_with_bare_line_breaks_is_refused_at_its_end() {
        for inside in ["a\nb", "a\rb", "\n.\n", "\n.\r\nRSET", "\r\n.\nRSET", "\r\n.\rRSET", "\r\r\n", ".\n"] {
            let bytes = format!("{inside}\r\n.\r\nQUIT\r\n");
            let (data, left) = read(&[bytes.as_bytes()], 1_000).expect("an end");
            assert_eq!((data, left), (Err(DataFault::BareLineBreak), b"QUIT\r\n".to_vec()), "{inside:?}");
        }
    }

    #[test]
    fn the_limit_counts_unstuffed_bytes() {
        assert_eq!(read(&[b"..345\r\n.\r\n"], 6).map(|(data, _)| data), Some(Ok(b".345\r\n".to_vec())));
        assert_eq!(read(&[b"..3456\r\n.\r\n"], 6).map(|(data, _)| data), Some(Err(DataFault::TooBig)));
    }

    #[test]
    fn skipped_bytes_count_towards_the_limit() {
        let wire: &[u8] = b"..345\r\n.6\r\n\r\n.\r\nQUIT\r\n";
        let whole = b".345\r\n6\r\n\r\n";
        for max_stored in 0..=whole.len() {
            let stored = whole[..max_stored].to_vec();
            assert_eq!(read_prefix(&[wire], whole.len(), max_stored), Some((Ok(stored), b"QUIT\r\n".to_vec())));
            let fault = read_prefix(&[wire], whole.len() - 1, max_stored.min(whole.len() - 1));
            assert_eq!(fault.map(|(data, _)| data), Some(Err(DataFault::TooBig)));
            let bare = read_prefix(&[b"..345\r\n\n.\r\n\r\n.\r\n"], 1_000, max_stored);
            assert_eq!(bare.map(|(data, _)| data), Some(Err(DataFault::BareLineBreak)));
        }
    }

    /// Stuffs dots as a client does before sending (RFC 5321 §4.5.2).
    fn stuffed(message: &[u8]) -> Vec<u8> {
        let lines = message.split_inclusive(|byte| *byte == b'\n');
        lines.flat_map(|line| if line.starts_with(b".") { [b".", line].concat() } else { line.to_vec() }).collect()
    }

    proptest! {
        #[test]
        fn a_stuffed_message_is_restored(lines in prop::collection::vec("[.a\u{e9}\0]{0,4}", 0..8), cut in 1_usize..7) {
            let message: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let wire = [stuffed(&message).as_slice(), b".\r\nQUIT\r\n"].concat();
            let chunks: Vec<&[u8]> = wire.chunks(cut).collect();
            prop_assert_eq!(read(&chunks, 1_000), Some((Ok(message), b"QUIT\r\n".to_vec())));
        }

        #[test]
        fn chunk_boundaries_do_not_matter(
            bytes in prop::collection::vec(prop::sample::select(b".\r\na".to_vec()), 0..40),
            cut in 1_usize..7,
        ) {
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            let ends = |bytes: &[u8]| bytes.starts_with(b".\r\n") || bytes.windows(5).any(|w| w == b"\r\n.\r\n");
            let found = read(&chunks, 1_000);
            prop_assert_eq!(&found, &read(&[&bytes], 1_000));
            prop_assert_eq!(found.is_some(), ends(&bytes));
        }
    }
}
