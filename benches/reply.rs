//! The cost of reading SMTP replies: `cargo bench --bench reply`.
//!
//! The target is well under a µs for a reply of one line: a message has four of them.

#![allow(dead_code, unused_imports, clippy::unwrap_used, missing_docs, reason = "the file is included unchanged")]

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
/// The included file imports `crate::domain`, which this makes available.
use postrider::domain;

/// The reply reader is private to `smtp`, so its file is included.
#[path = "../src/smtp/client/connection"]
mod smtp {
    #[cfg(test)]
    pub mod corrupt_replies;
    pub mod reply;

    /// Parses all replies, and returns their number.
    pub fn read_all(mut bytes: &[u8]) -> usize {
        let mut replies = 0;
        while !bytes.is_empty() {
            let (used, reply) = reply::ReplyReader::default().feed(bytes).unwrap();
            divan::black_box(reply.unwrap().to_reply());
            replies += 1;
            bytes = &bytes[used..];
        }
        replies
    }
}

fn main() {
    divan::main();
}

fn read(bencher: Bencher, bytes: &[u8]) {
    let replies = smtp::read_all(bytes);
    bencher.counter(ItemsCount::new(replies)).bench_local(|| smtp::read_all(black_box(bytes)));
}

/// The replies for one message of a pipelined session.
#[divan::bench]
fn accepted_message(bencher: Bencher) {
    read(bencher, b"250 2.1.0 ok\r\n250 2.1.5 ok\r\n354 go ahead\r\n250 2.0.0 queued as 4Xy7Qk2\r\n");
}

#[divan::bench]
fn ehlo(bencher: Bencher) {
    read(
        bencher,
        b"250-mx.test greets you\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-8BITMIME\r\n250-STARTTLS\r\n\
          250-ENHANCEDSTATUSCODES\r\n250 SMTPUTF8\r\n",
    );
}

#[divan::bench]
fn multi_line_refusal(bencher: Bencher) {
    read(
        bencher,
        b"550-5.1.1 The email account that you tried to reach does not exist. Please try\r\n\
          550-5.1.1 double-checking the recipient's email address for typos or\r\n\
          550-5.1.1 unnecessary spaces. For more information, go to\r\n\
          550 5.1.1  https://support.example/mail/?p=NoSuchUser a1b2c3 - gsmtp\r\n",
    );
}
