//! Parses any input from an SMTP client: memory is bounded, the result does not depend on how the bytes are split, and
//! a message ends only at CRLF.CRLF. The first byte of the input is the size of the pieces.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/smtp/inbound"]
mod inbound {
    mod chunk;
    mod command;
    mod data;
    mod line;
    mod login;
    mod path;

    use chunk::ChunkReader;
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

    /// Returns the bytes of a message that arrives in chunks.
    fn chunks(bytes: &[u8], size: usize) -> Result<Vec<u8>, data::DataFault> {
        let mut reader = ChunkReader::new(LIMIT, LIMIT);
        for piece in bytes.chunks(size) {
            reader.push(piece);
        }
        reader.finish()
    }

    /// Checks that no message in chunks has a bare line break, and that where chunks end does not matter.
    fn check_chunks(bytes: &[u8], size: usize) {
        let whole = chunks(bytes, bytes.len().max(1));
        let is_bare = |at: usize| match bytes[at] {
            b'\n' => at == 0 || bytes[at - 1] != b'\r',
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        match (whole, chunks(bytes, size)) {
            (Ok(message), split) => {
                assert_eq!(split.as_ref(), Ok(&message));
                assert!(message.starts_with(bytes) && message.len() <= LIMIT);
                assert!(!(0..bytes.len()).any(is_bare));
            }
            // Of several faults, which one is found first depends on the split.
            (Err(_), split) => assert!(split.is_err()),
        }
    }

    /// Checks the parser of the credentials of AUTH.
    fn check_login(line: &[u8]) {
        let decoded = login::decode(line);
        for bytes in [Some(line.to_vec()), decoded].into_iter().flatten() {
            if let Some((user, password)) = login::plain(&bytes) {
                assert!(!user.contains('\0') && !password.contains('\0') && user.len() + password.len() < bytes.len());
            }
            assert!(login::text(bytes).is_none_or(|text| !text.contains('\0')));
        }
    }

    pub fn check(bytes: &[u8], size: usize) {
        check_chunks(bytes, size);
        let all = lines(bytes, bytes.len().max(1));
        // The position at which an endless line is refused depends on the split, but the valid lines do not.
        let good = |lines: &[Result<Vec<u8>, LineFault>]| {
            lines.iter().filter_map(|line| line.clone().ok()).collect::<Vec<_>>()
        };
        assert_eq!(good(&all), good(&lines(bytes, size)));
        for line in good(&all) {
            assert!(!line.contains(&b'\n') && line.len() <= line::LINE_LIMIT);
            check_login(&line);
            if let Ok(
                command::Command::Mail(command::MailCommand { from: path, .. })
                | command::Command::Rcpt(command::RcptCommand { to: path, .. }),
            ) = command::parse(&line)
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
