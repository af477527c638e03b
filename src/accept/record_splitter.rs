//! A body that arrives piece by piece → its records, each with the numbers of its lines: a line of NDJSON, or a record of CSV
//! (RFC 4180), which may have line ends within quotes.
//!
//! LF, CRLF and CR alone end a line. JSON has no bare CR within strings, so that none is cut. Holds one record at a time. One that is too long is skipped up to its line's end and told of as such: a quote that is
//! never closed costs the lines it swallows and no memory.

/// Octets of the longest record: an entry has a twentieth of that.
pub const LONGEST: usize = 16 << 10;

/// A record and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Its first line, from 1.
    pub line: u64,
    /// Its last line: another one where a quote holds line ends.
    pub last_line: u64,
    /// Its octets without the line end; none where there were too many.
    pub octets: Option<Vec<u8>>,
    /// Whether a quote of it is never closed.
    pub is_unclosed: bool,
}

/// Takes a body apart.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "what the last bytes said, of which any may hold with any other")]
pub struct RecordSplitter {
    /// Whether line ends within quotes belong to the record.
    has_quotes: bool,
    current: Vec<u8>,
    in_quotes: bool,
    /// Whether the last byte was a CR: an LF behind it belongs to the same line end.
    after_cr: bool,
    /// Whether the current record is too long, and is skipped.
    is_skipping: bool,
    /// Lines that have ended.
    ended: u64,
    /// The line on which the current record began.
    began: u64,
}

impl RecordSplitter {
    /// For a body with, or without, quotes that hold line ends.
    pub fn new(has_quotes: bool) -> Self {
        Self {
            has_quotes,
            current: Vec::new(),
            in_quotes: false,
            after_cr: false,
            is_skipping: false,
            ended: 0,
            began: 1,
        }
    }

    /// Takes the next piece; `take` gets each record that it completes. Blank lines are none.
    pub fn push(&mut self, piece: &[u8], mut take: impl FnMut(Record)) {
        for &byte in piece {
            let is_open = self.in_quotes && !self.is_skipping;
            let is_rest_of_end = std::mem::take(&mut self.after_cr) && byte == b'\n';
            if is_rest_of_end && !is_open {
                continue;
            }
            if matches!(byte, b'\n' | b'\r') && !is_rest_of_end {
                self.after_cr = byte == b'\r';
                if !is_open {
                    self.complete(&mut take);
                    self.ended += 1;
                    self.began = self.ended + 1;
                    continue;
                }
                self.ended += 1;
            }
            if self.is_skipping {
                continue;
            }
            if byte == b'"' && self.has_quotes {
                // A doubled quote opens again what it has closed.
                self.in_quotes = !self.in_quotes;
            }
            if self.current.len() == LONGEST {
                self.is_skipping = true;
                self.current.clear();
            } else {
                self.current.push(byte);
            }
        }
    }

    /// The last record, which may lack its line end.
    pub fn finish(mut self, mut take: impl FnMut(Record)) {
        self.complete(&mut take);
    }

    fn complete(&mut self, take: &mut impl FnMut(Record)) {
        let mut octets = std::mem::take(&mut self.current);
        if self.began == 1 && octets.starts_with(b"\xef\xbb\xbf") {
            octets.drain(..3);
        }
        let (is_skipping, is_unclosed) = (std::mem::take(&mut self.is_skipping), std::mem::take(&mut self.in_quotes));
        if is_skipping || !octets.trim_ascii().is_empty() {
            // A body may end with a line end that an open quote has kept.
            let has_kept_end = matches!(octets.last(), Some(b'\n' | b'\r'));
            let last_line = if has_kept_end { self.ended } else { self.ended + 1 };
            take(Record { line: self.began, last_line, octets: (!is_skipping).then_some(octets), is_unclosed });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn split(body: &[u8], has_quotes: bool, piece: usize) -> Vec<(u64, Option<String>)> {
        let (mut records, mut list) = (RecordSplitter::new(has_quotes), Vec::new());
        let text = |octets: Vec<u8>| String::from_utf8_lossy(&octets).into_owned();
        for piece in body.chunks(piece) {
            records.push(piece, |record| list.push((record.line, record.octets.map(text))));
        }
        records.finish(|record| list.push((record.line, record.octets.map(text))));
        list
    }

    /// The lines of each record, and whether it is unclosed.
    fn spans(body: &[u8], piece: usize) -> Vec<(u64, u64, bool)> {
        let (mut records, mut list) = (RecordSplitter::new(true), Vec::new());
        for piece in body.chunks(piece) {
            records.push(piece, |record| list.push((record.line, record.last_line, record.is_unclosed)));
        }
        records.finish(|record| list.push((record.line, record.last_line, record.is_unclosed)));
        list
    }

    fn of(list: &[(u64, Option<&str>)]) -> Vec<(u64, Option<String>)> {
        list.iter().map(|(line, text)| (*line, text.map(str::to_owned))).collect()
    }

    #[test]
    fn lines_are_numbered_and_blank_ones_are_none() {
        let body = b"\xef\xbb\xbf{\"a\": 1}\r\n\n  \n{\"b\": \"\n{\"c\": 3}";
        let expected = of(&[(1, Some("{\"a\": 1}")), (4, Some("{\"b\": \"")), (5, Some("{\"c\": 3}"))]);
        for piece in [1, 2, 3, 100] {
            assert_eq!(split(body, false, piece), expected);
        }
    }

    #[test]
    fn a_line_end_within_quotes_ends_no_record() {
        let body = b"address,note\na@b.test,\"two\nlines, \"\"quoted\"\"\"\nc@d.test,\n";
        let expected = of(&[
            (1, Some("address,note")),
            (2, Some("a@b.test,\"two\nlines, \"\"quoted\"\"\"")),
            (4, Some("c@d.test,")),
        ]);
        for piece in [1, 7, 100] {
            assert_eq!(split(body, true, piece), expected);
        }
    }

    #[test]
    fn a_cr_alone_ends_a_line_of_csv() {
        let body = b"c20@x.test\rc21@x.test\r\n\rc22@x.test,\"a\rb\"\r";
        let expected = of(&[(1, Some("c20@x.test")), (2, Some("c21@x.test")), (4, Some("c22@x.test,\"a\rb\""))]);
        for piece in [1, 3, 100] {
            assert_eq!(split(body, true, piece), expected);
        }
    }

    #[test]
    fn a_cr_alone_ends_a_line_of_ndjson() {
        let expected = of(&[(1, Some("{\"a\": \"\\r\"}")), (2, Some("{}")), (4, Some("{}"))]);
        for piece in [1, 3, 100] {
            assert_eq!(split(b"{\"a\": \"\\r\"}\r{}\r\n\r{}", false, piece), expected);
        }
    }

    #[test]
    fn records_know_their_last_line() {
        let body = b"a,\"b\r\nc\rd\ne\"\r\nf\r\"g\n\r\nh";
        for piece in [1, 2, 100] {
            assert_eq!(spans(body, piece), [(1, 4, false), (5, 5, false), (6, 8, true)]);
        }
        let unclosed = format!("a\n\"{}\nb\n", "line\n".repeat(LONGEST / 5 + 3));
        let spans = spans(unclosed.as_bytes(), 1_000);
        assert_eq!((spans.len(), spans[1].0, spans[1].2), (spans.len(), 2, true));
        assert!(spans[1].1 > 3_000 && spans[2].0 == spans[1].1 + 1, "{:?}", &spans[..3]);
    }

    #[test]
    fn what_is_too_long_is_skipped_to_its_end_and_told_of() {
        let long = "x".repeat(LONGEST + 1);
        let body = format!("{}\na\n{long}\nb\n", "x".repeat(LONGEST));
        let read = split(body.as_bytes(), false, 1_000);
        assert_eq!(read[1..], of(&[(2, Some("a")), (3, None), (4, Some("b"))]));
        assert_eq!(read[0].1.as_ref().map(String::len), Some(LONGEST));
        let unclosed = format!("a,\"{}\nb\n", "line\n".repeat(LONGEST / 5 + 3));
        let read = split(unclosed.as_bytes(), true, 1_000);
        assert_eq!((read[0].clone(), read.last().unwrap().1.as_deref()), ((1, None), Some("b")));
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(body in "[a\",\r\n]{0,60}", piece in 1usize..10, has_quotes: bool) {
            prop_assert_eq!(split(body.as_bytes(), has_quotes, piece), split(body.as_bytes(), has_quotes, 1_000));
        }
    }
}
