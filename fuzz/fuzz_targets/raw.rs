//! Reads any bytes as a finished message, from the API or from submission: what is accepted can be sent as it is, and is
//! accepted again without a change.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "../../src/mail/mod.rs"]
mod mail;

use domain::api::fault::Faults;
use mail::raw::{self, RawMessage};

const MAX: u64 = 10_000;
const INSTRUCTIONS: &[&str] = &["X-Postrider-Tag", "Idempotency-Key"];

/// Returns the message as it would be stored, and whether it needs SMTPUTF8, if it can be sent.
fn sendable(message: Vec<u8>, max: u64, is_utf8: bool) -> Option<(Vec<u8>, bool)> {
    let mut faults = Faults::default();
    let read = RawMessage::read(message, max, is_utf8, &mut faults)?;
    for field in read.fields() {
        assert!(!field.name.is_empty() && field.name.bytes().all(|byte| byte.is_ascii_graphic()));
        let (text, addresses) = (raw::text(&field.value), raw::addresses(&field.value));
        assert!(!text.contains(char::is_control));
        if let Ok(sender) = raw::sender(&field.value) {
            assert!(addresses.len() <= 1, "{:?} names one sender: {sender:?}, {addresses:?}", field.value);
        }
    }
    let needs_smtputf8 = read.needs_smtputf8();
    faults.is_empty().then(|| (read.into_sendable(), needs_smtputf8))
}

fuzz_target!(|bytes: &[u8]| {
    // Instructions are taken out, and nothing else changes.
    let taken = raw::take(bytes.to_vec(), INSTRUCTIONS);
    assert_eq!(taken.fields.is_empty(), taken.message.len() == bytes.len());
    assert!(raw::take(taken.message.clone(), INSTRUCTIONS).fields.is_empty());
    let mut size = 0;
    raw::comparable(bytes, |part| size += part.len());
    assert!(size <= bytes.len());

    let Some((sent, needs_smtputf8)) = sendable(taken.message, MAX, false) else { return };
    assert!(sent.len() as u64 <= MAX + 2 && sent.ends_with(b"\r\n"));
    assert!(sent.split(|byte| *byte == b'\n').all(|line| line.len() <= 999 && !line.contains(&0)));
    assert!(!sent.split(|byte| *byte == b'\r').skip(1).any(|rest| !rest.starts_with(b"\n")), "a CR without LF");
    // An empty line follows the header, even an empty one.
    let head = memchr::memmem::find(&[b"\r\n", sent.as_slice()].concat(), b"\r\n\r\n").map_or(&sent[..], |end| &sent[..end]);
    for line in head.split(|byte| *byte == b'\n') {
        let line = line.to_ascii_lowercase();
        assert!(!["bcc:", "return-path:", "x-postrider-"].iter().any(|name| line.starts_with(name.as_bytes())));
    }
    // A field that needs SMTPUTF8 may have been removed, such as `Bcc`.
    let again = sendable(sent.clone(), MAX + 2, needs_smtputf8);
    assert_eq!(again, Some((sent, needs_smtputf8)));
});
