//! Parses any message as one that was received for an inbound route: lists and texts are bounded, no text contains NUL, every
//! attachment can be read, and the reply is a part of the text.
#![no_main]
#![allow(dead_code, unused_imports, reason = "the files are included unchanged")]

use libfuzzer_sys::fuzz_target;

/// Modules of Postrider, at the same paths as in its crate, because they import each other by these paths.
#[path = "../../src/domain/mod.rs"]
mod domain;
#[path = "../../src/mail/mod.rs"]
mod mail;

use mail::received::{ParsedMessage, attachment, read, with_images};

/// Returns all texts of a message but its bodies.
fn lines(message: &ParsedMessage) -> impl Iterator<Item = &String> {
    let ids = message.message_id.iter().chain(&message.in_reply_to).chain(&message.references);
    let names = message.headers.iter().map(|(name, _)| name);
    let files = message.attachments.iter().flat_map(|file| file.filename.iter().chain(&file.content_id));
    let from = message.from_address.iter().chain(&message.from_name);
    ids.chain(names).chain(files).chain(from).chain([&message.subject])
}

fuzz_target!(|mime: &[u8]| {
    let message = read(mime);
    assert!(message.headers.len() <= 500 && message.attachments.len() <= 200);
    assert!(message.in_reply_to.len() <= 50 && message.references.len() <= 50);
    assert!(message.from_address.as_ref().is_none_or(|address| address.contains('@')));
    for line in lines(&message) {
        assert!(line.chars().count() <= 998 && !line.contains(char::is_control), "{line:?}");
    }
    let values = message.headers.iter().map(|(_, value)| value);
    for text in values.chain(&message.text).chain(&message.html).chain(&message.reply_text) {
        assert!(!text.contains('\0'));
    }
    for (n, listed) in message.attachments.iter().enumerate() {
        let (file, bytes) = attachment(mime, n).expect("a listed attachment");
        assert!(file == *listed && file.size == bytes.len() as u64);
    }
    assert!(attachment(mime, message.attachments.len()).is_none());
    if let (Some(text), Some(reply)) = (&message.text, &message.reply_text) {
        assert!(reply.lines().all(|line| text.contains(line)), "{reply:?} is not in {text:?}");
    }
    let html = message.html.unwrap_or_default();
    assert!(with_images(&html, mime).len() <= html.len() + (32 << 20));
});
