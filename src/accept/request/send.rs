//! Parses a message: the body of `POST /v1/messages`, and each message of a batch.

use std::borrow::Cow;

use super::fields::Fields;
use super::pointer::Pointer;
use super::walk::Node;
use super::{Context, address, alternatives, attachments, headers, metadata, reply, schedule, tags};
use crate::domain::fault::{Code, Faults};
use crate::domain::id::MessageId;
use crate::domain::message::{Content, NewMessage};
use crate::domain::outcome::OnUncertain;

/// The fields of a message.
pub const FIELDS: &[&str] = &[
    "from",
    "to",
    "cc",
    "bcc",
    "reply_to",
    "subject",
    "text",
    "html",
    "headers",
    "in_reply_to",
    "attachments",
    "alternatives",
    "tags",
    "metadata",
    "template",
    "stream",
    "scheduled_at",
    "expires_at",
    "on_uncertain",
    "ignore_suppression",
];

/// The field of a message of a batch with its idempotency key, which the caller of [`batch_message`] reads.
pub const IDEMPOTENCY_KEY: &str = "idempotency_key";

/// The fields of a message of a batch.
pub const BATCH_FIELDS: &[&str] = &{
    let mut fields = [IDEMPOTENCY_KEY; FIELDS.len() + 1];
    let mut n = 0;
    while n < FIELDS.len() {
        fields[n] = FIELDS[n];
        n += 1;
    }
    fields
};

/// The stream of a message without the field `stream`.
pub const DEFAULT_STREAM: &str = "transactional";

/// Maximum length of a subject, in characters: a line of RFC 5322 before folding and encoding.
pub(super) const MAX_SUBJECT: usize = 998;

/// Parses a message. Returns `None` exactly when it has added a fault.
pub fn message(node: Node<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<NewMessage> {
    parse(node, FIELDS, context, faults)
}

/// Parses a message of a batch. Returns `None` exactly when it has added a fault.
pub fn batch_message(node: Node<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<NewMessage> {
    parse(node, BATCH_FIELDS, context, faults)
}

fn parse(
    node: Node<'_, '_>,
    allowed: &'static [&'static str],
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<NewMessage> {
    let before = faults.len();
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, allowed, faults)?;

    let from = fields.require("from", faults).and_then(|node| address::sender(node, faults));
    let recipients_before = faults.len();
    let recipients = address::recipients(&mut fields, context, faults);
    if recipients.is_empty() && faults.len() == recipients_before {
        let message = "at least one recipient in `to`, `cc` or `bcc` is required";
        Pointer::Field(&at, "to").fault(faults, Code::Required, message);
    }
    let reply_to = address::reply_to(fields.take("reply_to"), faults);
    let has_template = refuse_template(fields.take("template"), faults);
    let subject = subject(&mut fields, has_template, faults);
    let text = fields.take("text").map(|node| node.prose(faults));
    let html = fields.take("html").map(|node| node.prose(faults)).filter(|html| !is_blank(html.as_deref()));
    // With an `html`, an empty text also counts as absent.
    let text = text.filter(|text| html.is_none() || !is_blank(text.as_deref()));
    let files = fields.take("attachments");
    let has_files = files.as_ref().and_then(|node| node.value.as_array()).is_some_and(|files| !files.is_empty());
    if text.is_none() && html.is_none() && !has_files && !has_template {
        Pointer::Field(&at, "text").fault(
            faults,
            Code::Required,
            "`text` or `html` is required if there are no attachments",
        );
    }
    let headers = headers::headers(fields.take("headers"), context.limits.headers, faults);
    let in_reply_to = reply::in_reply_to(fields.take("in_reply_to"), &headers, &at, faults);
    let mut attachments = attachments::attachments(files, context, faults);
    alternatives::add(fields.take("alternatives"), &mut attachments, faults);
    let tags = tags::tags(fields.take("tags"), context.limits.tags, faults);
    let metadata = metadata::metadata(fields.take("metadata"), faults);
    let stream = stream(fields.take("stream"), context.streams, faults);
    let window = schedule::window(&mut fields, context, faults);
    let on_uncertain = on_uncertain(fields.take("on_uncertain"), faults);
    let ignore_suppression = fields.take("ignore_suppression").and_then(|node| node.boolean(faults));

    if faults.len() > before {
        return None;
    }
    Some(NewMessage {
        id: MessageId::new(context.now),
        created_at: context.now,
        from: from?,
        recipients,
        reply_to,
        subject: subject?.into_owned(),
        content: Content { text: text.flatten(), html: html.flatten(), headers },
        attachments,
        tags,
        metadata,
        stream: stream.into_owned(),
        scheduled_at: window.scheduled_at,
        expires_at: window.expires_at,
        on_uncertain,
        ignore_suppression: ignore_suppression.unwrap_or(false),
        message_id: None,
        in_reply_to,
    })
}

/// Returns whether a body is blank. A blank body counts as absent, because a mail client would show it instead of the
/// other body.
fn is_blank(body: Option<&str>) -> bool {
    body.is_some_and(|body| body.trim().is_empty())
}

/// Parses the subject. It is required, though it may be `""`: a missing subject is usually a bug in the application.
fn subject<'v>(fields: &mut Fields<'_, 'v>, has_template: bool, faults: &mut Faults) -> Option<Cow<'v, str>> {
    let node = if has_template { fields.take("subject") } else { fields.require("subject", faults) };
    node?.line(0..=MAX_SUBJECT, faults)
}

/// Adds a fault if a template is given, which this version does not support yet. Returns whether one is given.
fn refuse_template(node: Option<Node<'_, '_>>, faults: &mut Faults) -> bool {
    let Some(node) = node else { return false };
    node.at.fault(faults, Code::NotAvailable, "templates are not available yet; use `subject`, and `text` or `html`");
    true
}

/// Parses a stream's name, which must be one of `streams`. Returns the default stream if it is missing.
pub fn stream<'v>(node: Option<Node<'_, 'v>>, streams: &[String], faults: &mut Faults) -> Cow<'v, str> {
    let Some(node) = node else { return DEFAULT_STREAM.into() };
    let at = node.at;
    let Some(name) = node.string(faults) else { return DEFAULT_STREAM.into() };
    if !streams.iter().any(|stream| *stream == name) {
        let message = format_args!("unknown stream; use one of {}", streams.join(", "));
        at.fault(faults, Code::UnknownStream, message);
    }
    name
}

/// Parses what to do if the connection drops before the server's reply.
pub(super) fn on_uncertain(node: Option<Node<'_, '_>>, faults: &mut Faults) -> OnUncertain {
    let Some(node) = node else { return OnUncertain::default() };
    let at = node.at;
    let Some(value) = node.string(faults) else { return OnUncertain::default() };
    value.parse().unwrap_or_else(|()| {
        at.fault(faults, Code::InvalidValue, "use `retry`, `hold` or `fail`");
        OnUncertain::default()
    })
}
