//! Parses DSNs whose delivery-status part is any text: the fields of the message, the fields of each recipient, and
//! the replies in them. Each reply is also classified.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/domain"]
mod domain {
    pub mod bounce;
    pub mod outcome;
    pub mod provider;
    pub mod words;
}
#[path = "../../src/mail"]
mod mail {
    pub mod report;
}

fuzz_target!(|bytes: &[u8]| {
    const START: &[u8] =
        b"From: mailer-daemon@mx.test\r\nContent-Type: multipart/report; boundary=x\r\n\r\n--x\r\n\r\n\
        Sorry.\r\n--x\r\nContent-Type: message/delivery-status\r\n\r\n";
    let message = [START, bytes, b"\r\n--x--\r\n"].concat();
    let report = mail::report::read(&message);
    assert!(report.references.len() <= 32 && report.recipients.len() <= 1_001);
    for recipient in &report.recipients {
        assert!(!recipient.recipient.is_empty() && !recipient.recipient.contains(char::is_control));
        assert!(
            recipient.reply.text.len() <= domain::outcome::Reply::TEXT_LIMIT && !recipient.reply.text.contains('\0')
        );
    }
});
