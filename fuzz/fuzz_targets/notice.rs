//! Parses plain-text bounces whose body is any text. The whole body is also classified as a reply.
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
        b"Return-Path: <>\r\nFrom: mailer-daemon@mx.test\r\nTo: b+t@c.test\r\nSubject: failure notice\r\n\r\n";
    let message = [START, bytes].concat();
    let report = mail::report::read(&message);
    assert!(report.references.len() <= 32 && report.recipients.len() <= 1_001);
    for recipient in &report.recipients {
        assert!(!recipient.recipient.is_empty() && !recipient.recipient.contains(char::is_control));
        assert!(
            recipient.reply.text.len() <= domain::outcome::Reply::TEXT_LIMIT && !recipient.reply.text.contains('\0')
        );
    }
    let _ = domain::bounce::judge(&domain::outcome::Reply::from_lines(550, String::from_utf8_lossy(bytes).lines()));
});
