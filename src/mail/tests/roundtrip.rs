//! Property tests: an independent parser returns every field and finds no others.

use mail_parser::HeaderName;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::reading::{Leaf, fields, leaves, mailboxes, parse};
use super::{draft, file, header, mailbox};
use crate::domain::address::Mailbox;
use crate::domain::message::{Attachment, AttachmentRole, Content, Draft, Header};
use crate::mail::body::content_id::with_domain;
use crate::mail::encoding::normalise::{lines, single_line};
use crate::mail::{build, header as head};

/// Generates arbitrary text, and text with special cases.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "(\\PC|[ \\t\r\n]){0,300}",
        "[ -~]{0,1200}",
        "[ =?_utf8QqbB\"\\\\<>,;:@()\r\n\0.-]{0,60}",
        "(From |\\.|=\\?utf-8\\?q\\?|\\?=|--=_0193661b3d007abc8def0123456789ab_1|[\r\n x\u{e9}]){0,12}",
        "\\p{Han}{0,200}",
        "([a-z]{1,10} ){0,200}",
    ]
}

fn any_mailbox() -> impl Strategy<Value = Mailbox> {
    let local = prop_oneof![3 => "[a-zA-Z0-9!#$%&'*+/^_`{|}~-]{1,30}(\\.[a-z]{1,8}){0,2}", 1 => "\\p{Ll}{1,12}"];
    (of(any_text()), local, "([a-z0-9]{1,20}\\.){1,4}test")
        .prop_map(|(name, local, domain)| Mailbox { name, ..mailbox(&format!("{local}@{domain}")) })
}

fn any_header() -> impl Strategy<Value = Header> {
    ("X-[A-Za-z0-9_-]{1,60}", any_text()).prop_map(|(name, value)| header(&name, &value))
}

fn any_file() -> impl Strategy<Value = (Attachment, Vec<u8>)> {
    let select = prop::sample::select::<&str>;
    let binary = ["application/octet-stream", "image/png", "application/pdf; version=1.7"];
    let lines = "((From |[ -~]{0,90})[ \\t]?(\r\n|\n|\r|\r\n|\r\n)){0,12}";
    let boundaries = "(--=_0193661b3d007abc8def0123456789ab_1--\r\n|[ -~]{0,90}\r\n){0,8}";
    let text = prop_oneof![lines, boundaries].prop_map(String::into_bytes);
    let kind_and_data = prop_oneof![
        (select(binary.to_vec()), vec(any::<u8>(), 0..300)),
        (select(vec!["text/csv", "text/x-y; a=b"]), text)
    ];
    (any_text(), kind_and_data, of("[!-;=?-~]{1,60}"))
        .prop_map(|(name, (kind, data), id)| file(&name, kind, id.as_deref(), &data))
}

fn any_alternative() -> impl Strategy<Value = (Attachment, Vec<u8>)> {
    let kind =
        prop::sample::select(vec!["text/calendar; method=REQUEST", "text/x-amp-html; a=\"b;c\"; charset=us-ascii"]);
    (kind, any_text()).prop_map(|(kind, text)| {
        let (description, data) = file("", kind, None, text.as_bytes());
        (Attachment { role: AttachmentRole::Alternative, ..description }, data)
    })
}

fn any_structured_header() -> impl Strategy<Value = Header> {
    let name = prop::sample::select(vec!["References", "in-reply-to", "List-Unsubscribe", "Feedback-ID", "List-Foo"]);
    let value = prop_oneof!["(<[!-;=?-~]{1,600}>[ ,]{0,3}){0,6}", "[ -~]{0,900}", "(=\\?utf-8\\?q\\?|\\?=| |x){0,30}"];
    (name, value).prop_map(|(name, value)| header(name, &value))
}

fn any_draft() -> impl Strategy<Value = Draft> {
    let people = (any_mailbox(), vec(any_mailbox(), 0..4), vec(any_mailbox(), 0..3), vec(any_mailbox(), 0..2));
    let files = (vec(any_file(), 0..4), vec(any_alternative(), 0..3)).prop_map(|(files, more)| [files, more].concat());
    let content = (any_text(), of(any_text()), of(any_text()), vec(any_header(), 0..4), files);
    (people, content).prop_map(|((from, to, cc, reply_to), (subject, text, html, headers, attachments))| Draft {
        from,
        to,
        cc,
        reply_to,
        subject,
        content: Content { text, html, headers },
        ..draft(None, None, attachments)
    })
}

fn expected_mailboxes(mailboxes: &[Mailbox]) -> Vec<(Option<String>, String)> {
    let name = |mailbox: &Mailbox| {
        mailbox.name.as_deref().filter(|name| !name.trim().is_empty()).map(|name| single_line(name).into_owned())
    };
    mailboxes.iter().map(|mailbox| (name(mailbox), mailbox.address.to_string())).collect()
}

fn expected_leaves(draft: &Draft) -> Vec<Leaf> {
    let body = |kind: &str, text: &str| Leaf {
        content_type: kind.into(),
        filename: None,
        content_id: None,
        data: lines(text).collect::<Vec<_>>().join("\r\n").into_bytes(),
    };
    let Content { text, html, .. } = &draft.content;
    let (alternatives, files): (Vec<_>, Vec<_>) =
        draft.attachments.iter().partition(|(file, _)| file.role == AttachmentRole::Alternative);
    let (inline, attached): (Vec<_>, Vec<_>) =
        files.into_iter().partition(|(file, _)| html.is_some() && file.content_id.is_some());
    let of_type = |kind: &'static str| {
        let named = alternatives.iter().filter(move |(file, _)| file.content_type.starts_with(kind));
        named.map(move |(_, data)| body(kind, std::str::from_utf8(data).unwrap()))
    };
    let as_file = |(file, data): &(Attachment, Vec<u8>)| Leaf {
        content_type: file.content_type.split(';').next().unwrap().into(),
        filename: Some(single_line(&file.filename).into_owned()).filter(|name| !name.is_empty()),
        content_id: file.content_id.as_deref().map(|id| with_domain(id, draft.from.address.domain()).into_owned()),
        data: data.clone(),
    };
    let mut leaves = Vec::new();
    if text.is_some() || html.is_none() {
        leaves.push(body("text/plain", text.as_deref().unwrap_or_default()));
    }
    leaves.extend(of_type("text/x-amp-html"));
    leaves.extend(html.as_deref().map(|html| body("text/html", html)));
    leaves.extend(inline.into_iter().map(as_file));
    leaves.extend(of_type("text/calendar"));
    leaves.extend(attached.into_iter().map(as_file));
    leaves
}

fn expected_field_names(draft: &Draft) -> Vec<String> {
    let mut names = vec!["Date", "From"];
    names.extend((!draft.to.is_empty() || draft.cc.is_empty()).then_some("To"));
    names.extend((!draft.cc.is_empty()).then_some("Cc"));
    names.extend((!draft.reply_to.is_empty()).then_some("Reply-To"));
    names.extend(["Subject", "Message-ID", "MIME-Version"]);
    names.extend(draft.content.headers.iter().map(|header| header.name.as_str()));
    names.push("Content-Type");
    names.into_iter().map(Into::into).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_field_is_returned(draft in any_draft()) {
        let mail = build(&draft);
        let message = parse(&mail);
        prop_assert_eq!(mailboxes(message.from()), expected_mailboxes(std::slice::from_ref(&draft.from)));
        prop_assert_eq!(mailboxes(message.to()), expected_mailboxes(&draft.to));
        prop_assert_eq!(mailboxes(message.cc()), expected_mailboxes(&draft.cc));
        prop_assert_eq!(mailboxes(message.reply_to()), expected_mailboxes(&draft.reply_to));
        prop_assert_eq!(message.subject().unwrap_or_default(), single_line(&draft.subject));
        prop_assert_eq!(message.message_id().map(|id| format!("<{id}>")), Some(head::message_id(&draft)));
        prop_assert_eq!(message.date().map(mail_parser::DateTime::to_timestamp), Some(draft.date.timestamp()));
        let custom: Vec<_> = fields(&message).into_iter().filter(|(name, _)| name.starts_with("X-")).collect();
        let expected: Vec<_> = draft.content.headers.iter().map(|h| (h.name.clone(), single_line(&h.value).into_owned())).collect();
        prop_assert_eq!(custom, expected);
    }

    #[test]
    fn every_body_and_file_is_returned(draft in any_draft()) {
        let mail = build(&draft);
        let message = parse(&mail);
        let (mut read, expected) = (leaves(&message), expected_leaves(&draft));
        if let ([only], [wanted]) = (read.as_mut_slice(), expected.as_slice()) && !wanted.data.ends_with(b"\r\n") {
            // A message ends with a line end, which becomes part of its only part.
            only.data.truncate(wanted.data.len());
        }
        prop_assert_eq!(read, expected);
    }

    /// Structured fields are neither encoded nor changed, except for their white space.
    #[test]
    fn structured_fields_change_only_white_space(header in any_structured_header()) {
        let mut draft = draft(Some("x"), None, vec![]);
        draft.content.headers = vec![header.clone()];
        let mail = String::from_utf8(build(&draft)).unwrap();
        prop_assert!(mail.split("\r\n").all(|line| line.len() <= 998));
        let (head, _) = mail.split_once("\r\n\r\n").unwrap();
        let unfolded = head.replace("\r\n ", " ");
        if header.value.trim().is_empty() {
            prop_assert!(!unfolded.contains(&header.name));
            return Ok(());
        }
        let written = unfolded.lines().find_map(|line| line.strip_prefix(&format!("{}:", header.name))).unwrap();
        let bare = |text: &str| text.split_whitespace().collect::<String>();
        prop_assert_eq!(bare(written), bare(&header.value));
        prop_assert!(!written.contains("  ") && !written.ends_with(' '));
    }

    #[test]
    fn no_field_is_added(draft in any_draft()) {
        let mail = build(&draft);
        let message = parse(&mail);
        let mut names: Vec<_> = fields(&message).into_iter().map(|(name, _)| name).collect();
        names.retain(|name| name != "Content-Transfer-Encoding");
        prop_assert_eq!(names, expected_field_names(&draft));
        prop_assert!(message.header(HeaderName::Bcc).is_none());
    }

    #[test]
    fn every_line_is_valid_for_smtp(draft in any_draft()) {
        let mail = build(&draft);
        let text = String::from_utf8(mail).unwrap();
        prop_assert!(text.ends_with("\r\n"));
        prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n', '\0']));
        prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
        let people = [std::slice::from_ref(&draft.from), &draft.to, &draft.cc, &draft.reply_to].concat();
        prop_assert_eq!(text.is_ascii(), !people.iter().any(|person| person.address.needs_smtputf8()));
    }
}
