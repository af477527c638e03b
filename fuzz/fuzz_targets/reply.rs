//! Parses any bytes as SMTP replies: memory is bounded, the result does not depend on how the bytes are split, and
//! EHLO capabilities are parsed. The first byte of the input is the size of the pieces.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/domain"]
mod domain {
    pub mod outcome;
    pub mod provider;
    pub mod words;
}
#[path = "../../src/smtp/client/connection"]
mod smtp {
    pub mod ehlo;
    pub mod reply;

    pub fn read_all(bytes: &[u8], size: usize) -> (Vec<reply::RawReply>, Option<reply::ReplyError>) {
        let (mut reader, mut buffer, mut replies) = (reply::ReplyReader::default(), Vec::new(), Vec::new());
        for piece in bytes.chunks(size.max(1)) {
            buffer.extend_from_slice(piece);
            loop {
                match reader.feed(&buffer) {
                    Err(error) => return (replies, Some(error)),
                    Ok((used, reply)) => {
                        buffer.drain(..used);
                        let Some(reply) = reply else { break };
                        replies.push(reply);
                        reader = reply::ReplyReader::default();
                    }
                }
            }
            assert!(buffer.len() <= 2_048);
        }
        (replies, None)
    }

    pub fn check(bytes: &[u8], size: usize) {
        let (replies, end) = read_all(bytes, size);
        for reply in &replies {
            assert!(reply.text.len() <= (64 * 1_024 + 2_048) * 3 + 100);
            assert!(reply.to_reply().text.len() <= crate::domain::outcome::Reply::TEXT_LIMIT);
            let offer = ehlo::Capabilities::parse(reply);
            assert!(!offer.starttls() || reply.text.to_ascii_uppercase().contains("STARTTLS"));
            let _ = (offer.eight_bit_mime(), offer.smtputf8());
        }
        assert_eq!((replies, end), read_all(bytes, bytes.len()));
    }
}

fuzz_target!(|bytes: &[u8]| {
    if let Some((size, bytes)) = bytes.split_first() {
        smtp::check(bytes, usize::from(*size));
    }
});
