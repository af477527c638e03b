//! Tests the parts of a message and their nesting.

use super::reading::tree;
use super::{draft, file, header, mailbox, named};
use crate::domain::message::{Attachment, AttachmentRole};
use crate::mail::build;
use crate::mail::header::message_id;

fn pdf() -> (Attachment, Vec<u8>) {
    file("invoice.pdf", "application/pdf", None, b"%PDF")
}

fn logo() -> (Attachment, Vec<u8>) {
    file("logo.png", "image/png", Some("logo"), b"PNG")
}

#[test]
fn plain_message_has_a_single_part() {
    let mail = String::from_utf8(build(&draft(Some("Hello\n.\n"), None, vec![]))).unwrap();
    assert_eq!(
        mail,
        "Date: Wed, 18 Nov 2026 11:06:40 +0000\r\n\
         From: billing@acme.test\r\n\
         To: ann@example.test\r\n\
         Subject: Your invoice\r\n\
         Message-ID: <0193661b3d007abc8def0123456789ab@acme.test>\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=us-ascii\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         Hello\r\n.\r\n"
    );
}

#[test]
fn alternative_message_has_boundaries() {
    let mail = String::from_utf8(build(&draft(Some("Hi"), Some("<p>Hi</p>\n"), vec![]))).unwrap();
    let boundary = "=_0193661b3d007abc8def0123456789ab_1";
    let body = mail.split_once("MIME-Version: 1.0\r\n").unwrap().1;
    assert_eq!(
        body,
        format!(
            "Content-Type: multipart/alternative;\r\n boundary=\"{boundary}\"\r\n\
             \r\n--{boundary}\r\n\
             Content-Type: text/plain; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\nHi\
             \r\n--{boundary}\r\n\
             Content-Type: text/html; charset=us-ascii\r\nContent-Transfer-Encoding: 7bit\r\n\r\n<p>Hi</p>\r\n\
             \r\n--{boundary}--\r\n"
        )
    );
}

#[test]
fn parts_nest_as_readers_expect() {
    let (text, html) = (Some("t"), Some("<p>"));
    let cases = [
        (draft(text, None, vec![]), "text/plain"),
        (draft(None, html, vec![]), "text/html"),
        (draft(None, None, vec![]), "text/plain"),
        (draft(text, html, vec![]), "alternative(text/plain, text/html)"),
        (draft(None, html, vec![logo()]), "related(text/html, image/png)"),
        (draft(text, html, vec![logo(), logo()]), "alternative(text/plain, related(text/html, image/png, image/png))"),
        (draft(text, None, vec![pdf()]), "mixed(text/plain, application/pdf)"),
        (draft(None, None, vec![pdf()]), "mixed(text/plain, application/pdf)"),
        (draft(text, None, vec![logo()]), "mixed(text/plain, image/png)"),
        (
            draft(text, html, vec![pdf(), logo(), pdf()]),
            "mixed(alternative(text/plain, related(text/html, image/png)), application/pdf, application/pdf)",
        ),
    ];
    for (draft, expected) in cases {
        assert_eq!(tree(&build(&draft)), expected);
    }
}

#[test]
fn alternatives_are_around_the_html() {
    let alternative = |name: &str, content_type: &str, data: &[u8]| {
        let (description, data) = file(name, content_type, None, data);
        (Attachment { role: AttachmentRole::Alternative, ..description }, data)
    };
    let invitation = || alternative("", "text/calendar; method=REQUEST", b"BEGIN:VCALENDAR");
    let amp = || alternative("", "text/x-amp-html", b"<html amp4email>");
    let (text, html) = (Some("t"), Some("<p>"));
    let cases = [
        (draft(text, None, vec![invitation()]), "alternative(text/plain, text/calendar)"),
        (draft(None, None, vec![invitation()]), "alternative(text/plain, text/calendar)"),
        (draft(None, html, vec![invitation()]), "alternative(text/html, text/calendar)"),
        (
            draft(text, html, vec![invitation(), pdf(), amp(), logo()]),
            "mixed(alternative(text/plain, text/x-amp-html, related(text/html, image/png), text/calendar), application/pdf)",
        ),
        (
            draft(text, None, vec![alternative("a.ics", "text/calendar; method=REQUEST", b"\xff")]),
            "mixed(text/plain, text/calendar)",
        ),
    ];
    for (draft, expected) in cases {
        assert_eq!(tree(&build(&draft)), expected);
    }
}

#[test]
fn containers_of_an_8bit_part_are_8bit() {
    let forwarded = file("a.eml", "message/rfc822", None, "Subject: x\n\n\u{e9}".as_bytes());
    let mail = String::from_utf8(build(&draft(Some("t"), Some("<p>"), vec![forwarded]))).unwrap();
    let (head, body) = mail.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("\r\nContent-Transfer-Encoding: 8bit") && head.is_ascii(), "{head}");
    assert_eq!(body.matches("Content-Transfer-Encoding: 8bit").count(), 1, "only the part with the bytes: {body}");
}

#[test]
fn custom_fields_follow_the_standard_fields() {
    let mut draft = draft(Some("x"), None, vec![]);
    draft.cc = vec![named("Bo", "bo@example.test")];
    draft.reply_to = vec![mailbox("help@acme.test")];
    draft.content.headers = vec![
        header("X-B", "2"),
        header("X-A", "1"),
        header("bcc", "x@y.test"),
        header("Content-Type", "a/b"),
        header("a\r\nb", ""),
        header("References", " "),
        header("List-Id", ""),
    ];
    let mail = String::from_utf8(build(&draft)).unwrap();
    let head = mail.split_once("\r\n\r\n").unwrap().0;
    let names: Vec<_> = head.lines().map(|line| line.split_once(':').unwrap().0).collect();
    let standard = ["Date", "From", "To", "Cc", "Reply-To", "Subject", "Message-ID", "MIME-Version"];
    assert_eq!(names, [&standard[..], &["X-B", "X-A", "Content-Type", "Content-Transfer-Encoding"]].concat());
}

#[test]
fn message_to_bcc_only_has_undisclosed_recipients() {
    let mut draft = draft(Some("x"), None, vec![]);
    draft.to.clear();
    assert!(String::from_utf8(build(&draft)).unwrap().contains("\r\nTo: undisclosed-recipients:;\r\n"));
    draft.cc = vec![mailbox("cc@example.test")];
    assert!(!String::from_utf8(build(&draft)).unwrap().contains("\r\nTo:"));
}

#[test]
fn inline_image_matches_its_link() {
    let html = "<img src=\"cid:logo\">";
    let mail = String::from_utf8(build(&draft(None, Some(html), vec![logo()]))).unwrap();
    assert!(mail.contains("\r\nContent-ID: <logo@acme.test>\r\n") && mail.contains("cid:logo@acme.test"), "{mail}");
}

#[test]
fn boundary_in_a_text_does_not_end_the_part() {
    let text = "--=_0193661b3d007abc8def0123456789ab_1--\n";
    assert_eq!(tree(&build(&draft(Some(text), Some("<p>"), vec![]))), "alternative(text/plain, text/html)");
}

#[test]
fn rendering_is_deterministic() {
    let draft = draft(None, None, vec![]);
    assert_eq!(message_id(&draft), "<0193661b3d007abc8def0123456789ab@acme.test>");
    assert_eq!(build(&draft), build(&draft));
}
