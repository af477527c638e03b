//! Parses feedback reports with any fields and any returned message. A zero byte in the input separates the two.
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
    let at = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    const START: &[u8] =
        b"Content-Type: multipart/report; boundary=x\r\n\r\n--x\r\nContent-Type: message/feedback-report\r\n\r\n";
    let message =
        [START, &bytes[..at], b"\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n", &bytes[at..], b"\r\n--x--\r\n"]
            .concat();
    let report = mail::report::read(&message);
    assert!(report.references.len() <= 32 && report.recipients.len() <= 1_001);
    for recipient in &report.recipients {
        assert!(!recipient.recipient.is_empty() && !recipient.recipient.contains(char::is_control));
        assert!(
            recipient.reply.text.len() <= domain::outcome::Reply::TEXT_LIMIT && !recipient.reply.text.contains('\0')
        );
    }
});
