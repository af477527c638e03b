//! Splits a body that arrives in pieces into records with their line numbers. A record is a line of NDJSON, or a record
//! of CSV (RFC 4180), which may have line ends within quotes.
//!
//! LF, CRLF and a lone CR end a line. JSON strings contain no bare CR, so none is split. The splitter holds one record
//! at a time. A record that is too long is skipped up to the end of its line and reported, so that a quote that is
//! never closed cannot use unlimited memory.

/// Maximum length of a record, in bytes. A typical record is twenty times shorter.
pub const MAX_RECORD_BYTES: usize = 16 << 10;

/// A record and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The record's first line, counted from 1.
    pub line: u64,
    /// The record's last line, which differs from the first if a quote contains line ends.
    pub last_line: u64,
    /// The record's bytes without the line end; `None` if it is too long.
    pub bytes: Option<Vec<u8>>,
    /// Whether the record has a quote that is never closed.
    pub is_unclosed: bool,
}

/// Splits a body into records.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent parts of the parser's state")]
pub struct RecordSplitter {
    /// Whether line ends within quotes belong to the record.
    has_quotes: bool,
    current: Vec<u8>,
    in_quotes: bool,
    /// Whether the last byte was a CR: an LF after it belongs to the same line end.
    after_cr: bool,
    /// Whether the current record is too long and is being skipped.
    is_skipping: bool,
    /// Number of lines that have ended.
    ended_lines: u64,
    /// The line on which the current record starts.
    start_line: u64,
}

impl RecordSplitter {
    /// Creates a splitter. With `has_quotes`, quotes may contain line ends.
    pub fn new(has_quotes: bool) -> Self {
        Self {
            has_quotes,
            current: Vec::new(),
            in_quotes: false,
            after_cr: false,
            is_skipping: false,
            ended_lines: 0,
            start_line: 1,
        }
    }

    /// Processes the next piece and passes each record that it completes to `emit`. Blank lines are skipped.
    pub fn push(&mut self, piece: &[u8], mut emit: impl FnMut(Record)) {
        for &byte in piece {
            let is_open = self.in_quotes && !self.is_skipping;
            let is_rest_of_end = std::mem::take(&mut self.after_cr) && byte == b'\n';
            if is_rest_of_end && !is_open {
                continue;
            }
            if matches!(byte, b'\n' | b'\r') && !is_rest_of_end {
                self.after_cr = byte == b'\r';
                if !is_open {
                    self.complete(&mut emit);
                    self.ended_lines += 1;
                    self.start_line = self.ended_lines + 1;
                    continue;
                }
                self.ended_lines += 1;
            }
            if self.is_skipping {
                continue;
            }
            if byte == b'"' && self.has_quotes {
                // A doubled quote closes and reopens the quoted part.
                self.in_quotes = !self.in_quotes;
            }
            if self.current.len() == MAX_RECORD_BYTES {
                self.is_skipping = true;
                self.current.clear();
            } else {
                self.current.push(byte);
            }
        }
    }

    /// Passes the last record, which may lack a line end, to `emit`.
    pub fn finish(mut self, mut emit: impl FnMut(Record)) {
        self.complete(&mut emit);
    }

    fn complete(&mut self, emit: &mut impl FnMut(Record)) {
        let mut bytes = std::mem::take(&mut self.current);
        if self.start_line == 1 && bytes.starts_with(b"\xef\xbb\xbf") {
            bytes.drain(..3);
        }
        let (is_skipping, is_unclosed) = (std::mem::take(&mut self.is_skipping), std::mem::take(&mut self.in_quotes));
        if is_skipping || !bytes.trim_ascii().is_empty() {
            // With an open quote, the body's last line end is part of the record.
            let ends_with_line_end = matches!(bytes.last(), Some(b'\n' | b'\r'));
            let last_line = if ends_with_line_end { self.ended_lines } else { self.ended_lines + 1 };
            emit(Record { line: self.start_line, last_line, bytes: (!is_skipping).then_some(bytes), is_unclosed });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(body: &[u8], has_quotes: bool, piece: usize) -> Vec<(u64, Option<String>)> {
        let (mut records, mut list) = (RecordSplitter::new(has_quotes), Vec::new());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        for piece in body.chunks(piece) {
            records.push(piece, |record| list.push((record.line, record.bytes.map(text))));
        }
        records.finish(|record| list.push((record.line, record.bytes.map(text))));
        list
    }

    /// Returns the first and last line of each record, and whether it has an unclosed quote.
    fn spans(body: &[u8], piece: usize) -> Vec<(u64, u64, bool)> {
        let (mut records, mut list) = (RecordSplitter::new(true), Vec::new());
        for piece in body.chunks(piece) {
            records.push(piece, |record| list.push((record.line, record.last_line, record.is_unclosed)));
        }
        records.finish(|record| list.push((record.line, record.last_line, record.is_unclosed)));
        list
    }

    fn owned(list: &[(u64, Option<&str>)]) -> Vec<(u64, Option<String>)> {
        list.iter().map(|(line, text)| (*line, text.map(str::to_owned))).collect()
    }

    #[test]
    fn lines_are_numbered_and_blank_lines_skipped() {
        let body = b"\xef\xbb\xbf{\"a\": 1}\r\n\n  \n{\"b\": \"\n{\"c\": 3}";
        let expected = owned(&[(1, Some("{\"a\": 1}")), (4, Some("{\"b\": \"")), (5, Some("{\"c\": 3}"))]);
        for piece in [1, 2, 3, 100] {
            assert_eq!(split(body, false, piece), expected);
        }
    }

    #[test]
    fn a_line_end_within_quotes_does_not_end_a_record() {
        let body = b"address,note\na@b.test,\"two\nlines, \"\"quoted\"\"\"\nc@d.test,\n";
        let expected = owned(&[
            (1, Some("address,note")),
            (2, Some("a@b.test,\"two\nlines, \"\"quoted\"\"\"")),
            (4, Some("c@d.test,")),
        ]);
        for piece in [1, 7, 100] {
            assert_eq!(split(body, true, piece), expected);
        }
    }

    #[test]
    fn lone_cr_ends_a_csv_line() {
        let body = b"c20@x.test\rc21@x.test\r\n\rc22@x.test,\"a\rb\"\r";
        let expected = owned(&[(1, Some("c20@x.test")), (2, Some("c21@x.test")), (4, Some("c22@x.test,\"a\rb\""))]);
        for piece in [1, 3, 100] {
            assert_eq!(split(body, true, piece), expected);
        }
    }

    #[test]
    fn lone_cr_ends_an_ndjson_line() {
        let expected = owned(&[(1, Some("{\"a\": \"\\r\"}")), (2, Some("{}")), (4, Some("{}"))]);
        for piece in [1, 3, 100] {
            assert_eq!(split(b"{\"a\": \"\\r\"}\r{}\r\n\r{}", false, piece), expected);
        }
    }

    #[test]
    fn records_report_their_last_line() {
        let body = b"a,\"b\r\nc\rd\ne\"\r\nf\r\"g\n\r\nh";
        for piece in [1, 2, 100] {
            assert_eq!(spans(body, piece), [(1, 4, false), (5, 5, false), (6, 8, true)]);
        }
        let unclosed = format!("a\n\"{}\nb\n", "line\n".repeat(MAX_RECORD_BYTES / 5 + 3));
        let spans = spans(unclosed.as_bytes(), 1_000);
        assert_eq!((spans.len(), spans[1].0, spans[1].2), (spans.len(), 2, true));
        assert!(spans[1].1 > 3_000 && spans[2].0 == spans[1].1 + 1, "{:?}", &spans[..3]);
    }

    #[test]
    fn a_long_record_is_skipped_and_reported() {
        let long = "x".repeat(MAX_RECORD_BYTES + 1);
        let body = format!("{}\na\n{long}\nb\n", "x".repeat(MAX_RECORD_BYTES));
        let read = split(body.as_bytes(), false, 1_000);
        assert_eq!(read[1..], owned(&[(2, Some("a")), (3, None), (4, Some("b"))]));
        assert_eq!(read[0].1.as_ref().map(String::len), Some(MAX_RECORD_BYTES));
        let unclosed = format!("a,\"{}\nb\n", "line\n".repeat(MAX_RECORD_BYTES / 5 + 3));
        let read = split(unclosed.as_bytes(), true, 1_000);
        assert_eq!((read[0].clone(), read.last().unwrap().1.as_deref()), ((1, None), Some("b")));
    }

    proptest! {
        #[test]
        fn piece_size_does_not_change_the_records(body in "[a\",\r\n]{0,60}", piece in 1usize..10, has_quotes: bool) {
            prop_assert_eq!(split(body.as_bytes(), has_quotes, piece), split(body.as_bytes(), has_quotes, 1_000));
        }
    }
}
