use proptest::prelude::*;

use super::{RawMessage, addresses, sender, text};
use crate::domain::api::fault::Faults;
use crate::domain::message::{Attachment, AttachmentRole, Draft, ENVELOPE_SENDER};
use crate::mail::build;
use crate::mail::tests::{draft, header};

const MESSAGE: &str = "From: Acme <billing@acme.test>\r\nTo: ann@example.test\r\nSubject: Hi\r\n\r\nHello\r\n";

fn read(message: &[u8]) -> Result<RawMessage, Vec<(String, &'static str)>> {
    let mut faults = Faults::default();
    let raw = RawMessage::read(message.to_vec(), 1 << 20, false, &mut faults);
    let faults: Vec<_> = faults.into_vec().into_iter().map(|fault| (fault.pointer, fault.code)).collect();
    if faults.is_empty() { Ok(raw.expect("a message without faults")) } else { Err(faults) }
}

fn sendable(message: &str) -> String {
    String::from_utf8(read(message.as_bytes()).unwrap().into_sendable()).unwrap()
}

/// Returns the message as an attempt sends it.
fn completed(message: &str, headers: &[(&str, &str)]) -> String {
    let data = sendable(message).into_bytes();
    let file = Attachment { role: AttachmentRole::Mime, ..Attachment::default() };
    let mut draft: Draft = draft(None, None, vec![(file, data)]);
    draft.content.headers = headers.iter().map(|(name, value)| header(name, value)).collect();
    String::from_utf8(build(&draft)).unwrap()
}

#[test]
fn valid_message_is_not_changed() {
    let message = format!("Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nMessage-ID: <a@b>\r\n{MESSAGE}.\r\n\tx \r\n");
    assert_eq!(sendable(&message), message);
    assert_eq!(completed(&message, &[]), message);
}

#[test]
fn line_ends_become_crlf() {
    assert_eq!(sendable(&MESSAGE.replace("\r\n", "\n")), MESSAGE);
    assert_eq!(sendable(MESSAGE.replace("\r\n\r\n", "\n\n").trim_end()), MESSAGE);
    assert_eq!(sendable("From: a@b.test"), "From: a@b.test\r\n\r\n");
    assert_eq!(sendable("From: a@b.test\n\n"), "From: a@b.test\r\n\r\n");
}

#[test]
fn fields_that_must_not_be_sent_are_removed() {
    let message = format!(
        "Return-Path: <x@y.test>\r\nbcc: bo@example.test,\r\n cy@example.test\r\nX-postrider-Stream: bulk\r\n\
         Resent-Bcc: x@y.test\r\nX-Bcc: kept\r\n{MESSAGE}Bcc: in the body\r\n"
    );
    assert_eq!(sendable(&message), format!("X-Bcc: kept\r\n{MESSAGE}Bcc: in the body\r\n"));
}

#[test]
fn missing_fields_are_added_at_the_end_of_the_header() {
    let added = "Date: Wed, 18 Nov 2026 11:06:40 +0000\r\nMessage-ID: <0193661b3d007abc8def0123456789ab@acme.test>\r\n";
    let expected = MESSAGE.replace("\r\n\r\n", &format!("\r\n{added}\r\n"));
    assert_eq!(completed(MESSAGE, &[]), expected);
    let link = completed(MESSAGE, &[("List-Unsubscribe", "<https://a.test>"), (ENVELOPE_SENDER, "a@b.test")]);
    assert_eq!(link, MESSAGE.replace("\r\n\r\n", &format!("\r\n{added}List-Unsubscribe: <https://a.test>\r\n\r\n")));
    let own = format!("DATE: x\r\nmessage-id:\r\n <a@b>\r\nlist-unsubscribe: <https://b.test>\r\n{MESSAGE}");
    assert_eq!(completed(&own, &[("List-Unsubscribe", "<https://a.test>")]), own);
}

#[test]
fn invalid_lines_are_reported() {
    let fault = |message: &str| read(message.as_bytes()).unwrap_err();
    let body = |text: &str| fault(&format!("{MESSAGE}{text}"));
    let at_line = |code| vec![(String::new(), code)];
    assert_eq!(body("a\rb\n"), at_line("control_character"));
    assert_eq!(body("a\r\r\n"), at_line("control_character"));
    assert_eq!(body("a\r"), at_line("control_character"));
    assert_eq!(body("a\0b"), at_line("control_character"));
    assert_eq!(body(&"x".repeat(999)), at_line("too_long"));
    assert!(read(format!("{MESSAGE}{}", "x".repeat(998)).as_bytes()).is_ok());
    assert_eq!(body(&"\0\n".repeat(1_000)).len(), 10);
    assert_eq!(body(&"\n".repeat(600_000)), at_line("too_large"));
    for message in
        ["no field\n", " x: y\n", "From ann@example.test\n", "a b: c\n", ": x\n", "A: b\n \t\n c\n", "\u{e9}: x\n"]
    {
        assert_eq!(fault(message), at_line("invalid_header"), "{message}");
    }
    assert_eq!(fault(&"A: b\n".repeat(100_000)), at_line("too_large"));
}

#[test]
fn fields_that_occur_too_often_or_are_not_ascii_are_reported() {
    let fault = |fields: &str| read(format!("{fields}{MESSAGE}").as_bytes()).unwrap_err();
    assert_eq!(fault("from: x@y.test\r\n"), [("From".to_owned(), "duplicate_field")]);
    assert_eq!(fault("Date: a\r\nDate: b\r\n"), [("Date".to_owned(), "duplicate_field")]);
    assert_eq!(fault("X-A: Gr\u{fc}\u{df}e\r\n"), [("X-A".to_owned(), "invalid_header")]);
    assert_eq!(read(b"To: \xff@b.test\r\n\r\n").unwrap_err(), [("To".to_owned(), "invalid_header")]);
    assert!(read("To: j\u{fc}rgen@b.test\r\nSubject: \u{fc}\r\n\r\nGr\u{fc}\u{df}e".as_bytes()).is_ok());
    let fields = "To: j\u{fc}rgen@b.test\r\nReferences: <\u{fc}@b.test>\r\n\r\n";
    assert_eq!(read(fields.as_bytes()).unwrap_err(), [("References".to_owned(), "invalid_header")]);
    assert!(read("To: J\u{fc}rgen <j@b.test>\r\nSubject: \u{fc}\r\n\r\n".as_bytes()).is_err());
}

#[test]
fn sender_is_read_strictly() {
    for (value, expected) in [
        ("a@b.test", "a@b.test"),
        (" <a@b.test>", "a@b.test"),
        ("Ann Lee <a@b.test>", "Ann Lee <a@b.test>"),
        ("\"Lee, \\\"Ann\\\"\" <a@b.test>", "\"Lee, \\\"Ann\\\"\" <a@b.test>"),
        ("=?utf-8?q?Bo_=C3=85?= <a@b.test>", "Bo Å <a@b.test>"),
        ("=?iso-8859-1?Q?Bo_=C5?=\t=?utf-8?b?w4U=?= <a@b.test>", "Bo ÅÅ <a@b.test>"),
        ("Å <å@b.test>", "Å <å@b.test>"),
    ] {
        assert_eq!(sender(value.trim()).map(|mailbox| mailbox.to_string()).as_deref(), Ok(expected), "{value}");
    }
    for value in [
        "",
        "a",
        "a@b.test, c@d.test",
        "Group: a@b.test;",
        "a@b.test (Ann)",
        "Ann (x) <a@b.test>",
        "x@y.test <a@b.test>",
        "x@y.test, Ann <a@b.test>",
        "\"Ann\" Lee <a@b.test>",
        "\"Ann <a@b.test>",
        "Ann <a@b.test> x",
        "<a@b.test> <c@d.test>",
        "=?utf-8?q?a=0D=0AX:_y?= <a@b.test>",
    ] {
        assert!(sender(value).is_err(), "{value}: {:?}", sender(value));
    }
}

#[test]
fn recipients_and_texts_are_read_like_mail_clients_do() {
    let list = "Ann <a@b.test>, \"Lee, Bo\" <bo@b.test>, Group: c@b.test, =?utf-8?q?=C3=85?= <d@b.test>;";
    let found = addresses(list);
    let addresses: Vec<&str> = found.iter().map(|(_, address)| address.as_str()).collect();
    assert_eq!(addresses, ["a@b.test", "bo@b.test", "c@b.test", "d@b.test"]);
    assert_eq!(found[1].0.as_deref(), Some("Lee, Bo"));
    assert_eq!(super::addresses("undisclosed-recipients:;"), []);
    assert_eq!(text("=?utf-8?q?Gr=C3=BC=C3=9Fe_=00=0A?= x"), "Grüße    x");
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(message in "([A-Za-z-]{1,9}:|[ -~\r\n\t\0\u{e9}]{0,30}|\r\n|=\\?utf-8\\?q\\?|[<>@\",;:()]){0,40}") {
        let mut faults = Faults::default();
        let raw = RawMessage::read(message.clone().into_bytes(), 1 << 20, false, &mut faults).expect("it is small");
        for field in raw.fields() {
            let _ = (sender(&field.value), addresses(&field.value), text(&field.value));
        }
        if !faults.is_empty() {
            return Ok(());
        }
        let bytes = raw.into_sendable();
        let sent = String::from_utf8(bytes).unwrap();
        prop_assert!(sent.ends_with("\r\n") && (sent.starts_with("\r\n") || sent.contains("\r\n\r\n")));
        prop_assert!(!sent.replace("\r\n", "").contains(['\r', '\n', '\0']));
        prop_assert!(sent.split("\r\n").all(|line| line.len() <= 998));
    }

    #[test]
    fn every_sendable_message_is_read_again(message in "([A-Z][a-z]{0,8}: [ -~]{0,40}\r?\n){1,8}\n[ -~\n]{0,200}") {
        let Ok(raw) = read(message.as_bytes()) else { return Ok(()) };
        let once = raw.into_sendable();
        prop_assert_eq!(read(&once).unwrap().into_sendable(), once);
    }
}
