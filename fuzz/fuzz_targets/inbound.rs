//! Parses any input from an SMTP client: memory is bounded, the result does not depend on how the bytes are split, and
//! a message ends only at CRLF.CRLF. The first byte of the input is the size of the pieces.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/smtp/inbound"]
mod inbound {
    mod command;
    mod data;
    mod line;
    mod path;

    use data::DataReader;
    use line::{LineFault, LineReader};

    const LIMIT: usize = 1_024;

    /// Returns every line, or its fault.
    fn lines(bytes: &[u8], size: usize) -> Vec<Result<Vec<u8>, LineFault>> {
        let (mut reader, mut input, mut lines) = (LineReader::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size) {
            input.extend_from_slice(piece);
            while let Some(line) = reader.take(&mut input) {
                lines.push(line);
            }
            assert!(input.len() <= line::LINE_LIMIT);
        }
        lines
    }

    /// Returns the message, and the number of bytes that were used.
    fn message(bytes: &[u8], size: usize) -> Option<(Result<Vec<u8>, data::DataFault>, usize)> {
        let (mut reader, mut total) = (DataReader::new(LIMIT, LIMIT), 0);
        for piece in bytes.chunks(size) {
            let (used, is_over) = reader.push(piece);
            total += used;
            if is_over {
                return Some((reader.finish(), total));
            }
            assert_eq!(used, piece.len());
        }
        None
    }

    pub fn check(bytes: &[u8], size: usize) {
        let all = lines(bytes, bytes.len().max(1));
        // The position at which an endless line is refused depends on the split, but the valid lines do not.
        let good = |lines: &[Result<Vec<u8>, LineFault>]| {
            lines.iter().filter_map(|line| line.clone().ok()).collect::<Vec<_>>()
        };
        assert_eq!(good(&all), good(&lines(bytes, size)));
        for line in good(&all) {
            assert!(!line.contains(&b'\n') && line.len() <= line::LINE_LIMIT);
            if let Ok(command::Command::Mail(command::MailCommand { from: path, .. }) | command::Command::Rcpt(path)) =
                command::parse(&line)
            {
                assert!(!path.chars().any(char::is_control) && path.len() <= 256);
            }
        }
        let whole = message(bytes, bytes.len().max(1));
        assert_eq!(whole, message(bytes, size));
        let end = if bytes.starts_with(b".\r\n") {
            Some(3)
        } else {
            bytes.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5)
        };
        assert_eq!(whole.as_ref().map(|(_, total)| *total), end);
        if let Some((Ok(message), total)) = whole {
            assert!(message.len() <= LIMIT.min(total));
            assert!(message.is_empty() || message.ends_with(b"\r\n"));
            assert!(
                !message.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || message[at - 1] != b'\r'))
            );
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((size, bytes)) = bytes.split_first() {
        inbound::check(bytes, usize::from(*size).max(1));
    }
});
