use super::{MimeRequest, Parameters, hashes, parse};
use crate::accept::request::{Context, Limits, Rejection};
use crate::domain::message::RecipientKind::{Bcc, Cc, To};
use crate::domain::message::{ENVELOPE_SENDER, unsubscribe};
use crate::domain::outcome::OnUncertain;

const MESSAGE: &str = "From: Acme <billing@acme.test>\nTo: Ann <ann@example.test>, bo@example.test\nCc: cy@example.test\n\
    Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\nHello\n";

fn parameters(query: &[(&str, &str)]) -> Parameters {
    Parameters::new(|name| query.iter().filter(|(found, _)| *found == name).map(|(_, v)| (*v).to_owned()).collect())
}

fn parsed(message: &str, query: &[(&str, &str)]) -> Result<MimeRequest, Rejection> {
    let (limits, streams) = (Limits::default(), ["transactional".to_owned(), "bulk".to_owned()]);
    let now = "2026-11-23T12:00:00Z".parse().unwrap();
    let context = Context::new(now, &limits, &streams);
    parse(message.as_bytes().to_vec(), 1 << 20, &parameters(query), &context)
}

fn accepted(message: &str, query: &[(&str, &str)]) -> MimeRequest {
    parsed(message, query).unwrap_or_else(|error| panic!("{error:?}"))
}

fn faults(message: &str, query: &[(&str, &str)]) -> Vec<(String, &'static str)> {
    let Err(Rejection::Invalid(faults)) = parsed(message, query) else { panic!("{message:?} {query:?} is accepted") };
    faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
}

fn recipients(request: &MimeRequest) -> Vec<(crate::domain::message::RecipientKind, String)> {
    request.message.recipients.iter().map(|one| (one.kind, one.mailbox.to_string())).collect()
}

#[test]
fn header_names_sender_subject_and_recipients() {
    let bcc = MESSAGE.replace("\n\n", "\nBcc: di@example.test,\n bo@example.test\nReply-To: help@acme.test\n\n");
    let request = accepted(&bcc, &[]);
    let message = &request.message;
    assert_eq!((message.from.to_string().as_str(), message.subject.as_str()), ("Acme <billing@acme.test>", "Grüße"));
    let expected =
        [(To, "Ann <ann@example.test>"), (To, "bo@example.test"), (Cc, "cy@example.test"), (Bcc, "di@example.test")];
    assert_eq!(recipients(&request), expected.map(|(kind, text)| (kind, text.to_owned())));
    assert_eq!(message.reply_to[0].to_string(), "help@acme.test");
    let mime = String::from_utf8(message.attachments[0].data.clone()).unwrap();
    assert!(!mime.contains("di@example.test") && mime.ends_with("\r\n\r\nHello\r\n"), "{mime}");
    assert_eq!((message.message_id.as_deref(), request.sender_domains.len()), (None, 0));
    assert_eq!(message.size(), mime.len() as u64);
}

#[test]
fn parameters_take_the_place_of_the_json_fields() {
    let query = [
        ("from", "bounces@mail.acme.test"),
        ("to", "bo@example.test"),
        ("to", "eve+x@example.test"),
        ("to", "fay y@example.test"),
        ("to", "cy@example.test"),
        ("stream", "bulk"),
        ("tag", "kind:invoice"),
        ("metadata", "order:42:a"),
        ("metadata", "empty:"),
        ("scheduled_at", "2026-12-01T09:00:00 01:00"),
        ("expires_at", "2026-12-02T09:00:00Z"),
        ("on_uncertain", "hold"),
        ("ignore_suppression", "true"),
    ];
    let own = format!(
        "Message-ID: <a@b>\nReferences: <x@y>\nSender: boss@other.test\nList-Unsubscribe: <https://a>\n{MESSAGE}"
    );
    let request = accepted(&own, &query);
    let message = &request.message;
    let expected =
        [(To, "bo@example.test"), (Cc, "cy@example.test"), (Bcc, "eve+x@example.test"), (Bcc, "fay+y@example.test")];
    assert_eq!(recipients(&request), expected.map(|(kind, text)| (kind, text.to_owned())));
    assert_eq!((message.stream.as_str(), message.tags[0].value.as_str()), ("bulk", "invoice"));
    assert_eq!((&message.metadata["order"], &message.metadata["empty"]), (&"42:a".into(), &"".into()));
    assert_eq!(message.scheduled_at.map(|at| at.to_rfc3339()).as_deref(), Some("2026-12-01T08:00:00+00:00"));
    assert_eq!((message.on_uncertain, message.ignore_suppression), (OnUncertain::Hold, true));
    assert_eq!(message.message_id.as_deref(), Some("a@b"));
    assert_eq!(request.sender_domains, ["other.test", "mail.acme.test"]);
    let headers: Vec<_> = message.content.headers.iter().map(|h| (h.name.as_str(), h.value.as_str())).collect();
    let from = (ENVELOPE_SENDER, "bounces@mail.acme.test");
    assert_eq!(headers, [("References", "<x@y>"), ("List-Unsubscribe", "<https://a>"), from]);
    assert!(unsubscribe::has_link(&message.content.headers));
}

#[test]
fn invalid_messages_and_parameters_are_reported() {
    let with = |field: &str| format!("{field}\n{MESSAGE}");
    let without_from = MESSAGE.split_once('\n').unwrap().1;
    let one = |message: &str, query: &[(&str, &str)], pointer: &str, code: &'static str| {
        assert_eq!(faults(message, query), [(pointer.to_owned(), code)], "{message:?} {query:?}");
    };
    one(without_from, &[], "From", "required");
    one(&with("From: x@y.test"), &[], "From", "duplicate_field");
    one(&MESSAGE.replace("Acme <billing@acme.test>", "a@acme.test, b@acme.test"), &[], "From", "invalid_address");
    one(&MESSAGE.replace("Acme <", "\"a> <b@other.test\"@acme.test <"), &[], "From", "invalid_address");
    one(&MESSAGE.replace("billing@", "\"x> <y@other.test\"@"), &[], "From", "invalid_address");
    one(&with("Sender: nobody"), &[], "Sender", "invalid_address");
    one(&with("Message-ID: a@b"), &[], "Message-ID", "invalid_header");
    one(&MESSAGE.replace("Ann <", "Änn <"), &[], "To", "invalid_header");
    one(&MESSAGE.replace("cy@example.test", "cy"), &[], "Cc", "invalid_address");
    one("From: a@acme.test\n\nx", &[], "to", "required");
    one("From: a@acme.test\nTo: undisclosed-recipients:;\n\nx", &[], "to", "required");
    one(&with("Resent-To: x@y.test"), &[], "to", "required");
    let many = ["x@example.test"; 51].join(", ");
    one(&format!("From: a@acme.test\nTo: {}\n\nx", many.replace(", ", ",\n ")), &[], "To", "too_many");
    one(MESSAGE, &[("to", "x")], "to", "invalid_address");
    one(MESSAGE, &[("from", "<>")], "from", "invalid_address");
    one(MESSAGE, &[("from", "a@acme.test"), ("from", "b@acme.test")], "from", "duplicate_field");
    one(MESSAGE, &[("stream", "none")], "stream", "unknown_stream");
    one(MESSAGE, &[("tag", "kind")], "tag", "invalid_value");
    one(MESSAGE, &[("tag", "a b:c")], "tag", "invalid_value");
    one(MESSAGE, &[("metadata", "order")], "metadata", "invalid_value");
    one(MESSAGE, &[("metadata", "a:1"), ("metadata", "a:2")], "metadata", "duplicate_field");
    one(MESSAGE, &[("scheduled_at", "tomorrow")], "scheduled_at", "invalid_timestamp");
    one(MESSAGE, &[("on_uncertain", "drop")], "on_uncertain", "invalid_value");
    one(MESSAGE, &[("ignore_suppression", "yes")], "ignore_suppression", "invalid_type");
    let all = faults(&format!("Sender: x\n{without_from}"), &[("stream", "none"), ("tag", "x")]);
    assert_eq!(all.len(), 4, "{all:?}");
}

#[test]
fn utf8_is_allowed_where_an_address_needs_it() {
    let message = MESSAGE.replace("bo@", "jürgen@");
    assert_eq!(recipients(&accepted(&message, &[]))[1].1, "jürgen@example.test");
    // As mail clients send it with SMTPUTF8 (RFC 6532): nothing is encoded.
    let plain = MESSAGE.replace("Acme <", "Büro <").replace("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße");
    let request = accepted(&plain, &[("to", "jürgen@example.test")]);
    let message = &request.message;
    assert_eq!((message.from.to_string().as_str(), message.subject.as_str()), ("Büro <billing@acme.test>", "Grüße"));
    assert_eq!(
        faults(&plain, &[("to", "ann@example.test")]),
        [("Subject".to_owned(), "invalid_header"), ("From".to_owned(), "invalid_address")]
    );
}

#[test]
fn hashes_differ_for_other_bytes_and_parameters() {
    let hash = |body: &str, query: &[(&str, &str)]| hashes(body.as_bytes(), &parameters(query)).digest;
    let one = hash("a", &[("to", "x"), ("stream", "b")]);
    assert_eq!(one, hash("a", &[("stream", "b"), ("to", "x")]));
    for (body, query) in [
        ("b", &[("to", "x"), ("stream", "b")][..]),
        ("a", &[("to", "x")]),
        ("a", &[("to", "xs"), ("stream", "b")]),
        ("a", &[("to", "x"), ("to", "x"), ("stream", "b")]),
        ("a", &[("from", "x"), ("stream", "b")]),
    ] {
        assert_ne!(hash(body, query), one, "{query:?}");
    }
}
