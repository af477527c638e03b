//! Any input from a client: lines, commands and messages are read within bounds, with the same result for every split of the
//! bytes, and a message ends only at CRLF.CRLF. The first byte is the size of the pieces.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are taken as they are")]

use libfuzzer_sys::fuzz_target;

/// The modules under test, at the same paths as in the product.
#[path = "../../src/smtp/inbound"]
mod inbound {
    mod command;
    mod data;
    mod line;
    mod path;

    use data::DataReader;
    use line::{LineFault, LineReader};

    const LIMIT: usize = 1_024;

    /// Every line, or its fault.
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

    /// A message, and its length in bytes.
    fn mail(bytes: &[u8], size: usize) -> Option<(Result<Vec<u8>, data::DataFault>, usize)> {
        let (mut reader, mut taken) = (DataReader::new(LIMIT, LIMIT), 0);
        for piece in bytes.chunks(size) {
            let (used, is_over) = reader.push(piece);
            taken += used;
            if is_over {
                return Some((reader.finish(), taken));
            }
            assert_eq!(used, piece.len());
        }
        None
    }

    pub fn check(bytes: &[u8], size: usize) {
        let all = lines(bytes, bytes.len().max(1));
        // An endless line may be noticed sooner or later, but the valid lines are the same for every split.
        let good = |lines: &[Result<Vec<u8>, LineFault>]| lines.iter().filter_map(|line| line.clone().ok()).collect::<Vec<_>>();
        assert_eq!(good(&all), good(&lines(bytes, size)));
        for line in good(&all) {
            assert!(!line.contains(&b'\n') && line.len() <= line::LINE_LIMIT);
            if let Ok(command::Command::Mail(command::Mail { from: path, .. }) | command::Command::Rcpt(path)) = command::parse(&line) {
                assert!(!path.chars().any(char::is_control) && path.len() <= 256);
            }
        }
        let whole = mail(bytes, bytes.len().max(1));
        assert_eq!(whole, mail(bytes, size));
        let end = if bytes.starts_with(b".\r\n") { Some(3) } else { bytes.windows(5).position(|five| five == b"\r\n.\r\n").map(|at| at + 5) };
        assert_eq!(whole.as_ref().map(|(_, taken)| *taken), end);
        if let Some((Ok(mail), taken)) = whole {
            assert!(mail.len() <= LIMIT.min(taken));
            assert!(mail.is_empty() || mail.ends_with(b"\r\n"));
            assert!(!mail.iter().enumerate().any(|(at, byte)| *byte == b'\n' && (at == 0 || mail[at - 1] != b'\r')));
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((size, bytes)) = bytes.split_first() {
        inbound::check(bytes, usize::from(*size).max(1));
    }
});
