//! Splits bytes into command lines (RFC 5321 §2.3.8): only CRLF ends one.

use super::command;

/// Maximum bytes of a command line with its CRLF: the 512 of RFC 5321 §4.5.3.1.4, and ample space for extensions.
pub(super) const LINE_LIMIT: usize = 2_048;

/// Maximum bytes skipped of a line that is too long, before the session ends.
const SKIP_LIMIT: usize = 1 << 20;

/// Why a line is not a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineFault {
    /// More than [`LINE_LIMIT`] bytes.
    TooLong,
    /// More than [`SKIP_LIMIT`] bytes after it was refused as too long.
    Endless,
    /// Ended by LF alone.
    BareLineFeed,
    /// A BDAT command with one of these faults. The session must end: the bytes of its chunk are no commands.
    BadChunk,
}

/// Removes lines from the front of a buffer.
#[derive(Debug, Default)]
pub(super) struct LineReader {
    /// Bytes skipped of a line that was refused as too long and has not ended yet.
    skipped: Option<usize>,
}

impl LineReader {
    /// Returns the next line without its CRLF, or `None` if more bytes are needed. After `None`, the buffer has
    /// less than [`LINE_LIMIT`] bytes.
    pub(super) fn take(&mut self, input: &mut Vec<u8>) -> Option<Result<Vec<u8>, LineFault>> {
        loop {
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
                return self.wait(input);
            };
            let mut line: Vec<u8> = input.drain(..=end).collect();
            if self.skipped.take().is_some() {
                continue;
            }
            if line.len() > LINE_LIMIT {
                return Some(Err(fault(LineFault::TooLong, &line)));
            }
            if !line.ends_with(b"\r\n") {
                return Some(Err(fault(LineFault::BareLineFeed, &line)));
            }
            line.truncate(line.len() - 2);
            return Some(Ok(line));
        }
    }

    /// Handles a buffer without a line end: refuses a line that is too long, once, and discards it.
    fn wait(&mut self, input: &mut Vec<u8>) -> Option<Result<Vec<u8>, LineFault>> {
        if let Some(skipped) = &mut self.skipped {
            *skipped += input.len();
            input.clear();
            return (*skipped > SKIP_LIMIT).then_some(Err(LineFault::Endless));
        }
        if input.len() >= LINE_LIMIT {
            self.skipped = Some(0);
            let fault = fault(LineFault::TooLong, input);
            input.clear();
            return Some(Err(fault));
        }
        None
    }
}

/// Returns the fault of a line.
fn fault(fault: LineFault, line: &[u8]) -> LineFault {
    if command::begins_with_bdat(line) { LineFault::BadChunk } else { fault }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(chunks: &[&[u8]]) -> Vec<Result<String, LineFault>> {
        let (mut reader, mut input, mut lines) = (LineReader::default(), Vec::new(), Vec::new());
        for chunk in chunks {
            input.extend_from_slice(chunk);
            while let Some(line) = reader.take(&mut input) {
                lines.push(line.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        lines
    }

    #[test]
    fn pipelined_lines_are_returned_one_by_one() {
        assert_eq!(all(&[b"RSET\r\nNO", b"OP\r", b"\nQ"]), [Ok("RSET".into()), Ok("NOOP".into())]);
    }

    #[test]
    fn a_line_ended_by_lf_alone_is_refused_and_the_next_is_read() {
        assert_eq!(all(&[b"RSET\nNOOP\r\n"]), [Err(LineFault::BareLineFeed), Ok("NOOP".into())]);
    }

    #[test]
    fn a_faulty_line_that_announces_a_chunk_is_told_apart() {
        let long = [b"BDAT ".as_slice(), &[b'1'; LINE_LIMIT]].concat();
        for chunks in [[b"bdat 6 LAST\nRSET\r\n".as_slice(), b""], [&long, b""], [&long, b"\r\n"], [b"BDAT\n", b""]] {
            assert_eq!(all(&chunks).first(), Some(&Err(LineFault::BadChunk)), "{chunks:?}");
        }
        assert_eq!(all(&[b"BDATA 6\n"]), [Err(LineFault::BareLineFeed)]);
    }

    #[test]
    fn an_endless_line_is_refused_once_and_not_buffered() {
        let long = vec![b'x'; LINE_LIMIT];
        assert_eq!(all(&[&long, &long, b"x\r\nNOOP\r\n"]), [Err(LineFault::TooLong), Ok("NOOP".into())]);
    }

    #[test]
    fn the_longest_line_is_accepted() {
        let mut line = vec![b'x'; LINE_LIMIT - 2];
        line.extend_from_slice(b"\r\n");
        assert!(matches!(all(&[&line]).as_slice(), [Ok(_)]));
        line.insert(0, b'x');
        assert_eq!(all(&[&line]), [Err(LineFault::TooLong)]);
    }

    proptest! {
        #[test]
        fn chunk_boundaries_do_not_matter(lines in prop::collection::vec("[ -~]{0,40}", 0..8), cut in 1_usize..9) {
            let bytes: Vec<u8> = lines.iter().flat_map(|line| format!("{line}\r\n").into_bytes()).collect();
            let chunks: Vec<&[u8]> = bytes.chunks(cut).collect();
            prop_assert_eq!(all(&chunks), lines.into_iter().map(Ok).collect::<Vec<_>>());
        }
    }
}
