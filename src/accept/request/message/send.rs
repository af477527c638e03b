//! Parses a message: the body of `POST /v1/messages`, and each message of a batch.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::schedule::{self, Window};
use super::{address, alternatives, attachments, headers, metadata, render, reply, tags};
use crate::accept::request::Context;
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::MessageId;
use crate::domain::message::{Content, NewAttachment, NewMessage, Tag};
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

/// The name of the field with a message's own idempotency key. Only messages of a batch have it; the caller of
/// [`batch_message`] reads it.
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
pub(in crate::accept::request) const MAX_SUBJECT: usize = 998;

/// Parses a message. Returns `None` exactly when it has added a fault, or when its template is not loaded.
pub fn message(node: Node<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<NewMessage> {
    parse(node, FIELDS, context, faults)
}

/// Parses a message of a batch. Returns `None` exactly when it has added a fault, or when its template is not loaded.
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

    let mut template = render::content(&mut fields, context.templates, faults);
    if matches!(template, render::Content::NotLoaded) {
        // The body is parsed again once the template is loaded.
        return None;
    }
    let from = match fields.take("from") {
        Some(node) => address::sender(node, faults),
        None => template.sender(&at, faults),
    };
    let recipients_before = faults.len();
    let recipients = address::recipients(&mut fields, context, faults);
    if recipients.is_empty() && faults.len() == recipients_before {
        let message = "at least one recipient in `to`, `cc` or `bcc` is required";
        Pointer::Field(&at, "to").fault(faults, Code::Required, message);
    }
    let reply_to = match fields.take("reply_to") {
        Some(node) => address::reply_to(Some(node), faults),
        None => template.reply_to(&at, faults),
    };
    let subject = match fields.take("subject") {
        Some(node) => node.line(0..=MAX_SUBJECT, faults).map(Cow::into_owned),
        // The subject is required, though it may be `""`: a missing subject is usually a bug in the application.
        None => template.subject(&at, faults),
    };
    let (text, html) = bodies(&mut fields, &mut template, faults);
    let files = fields.take("attachments");
    let has_files = files.as_ref().and_then(|node| node.value.as_array()).is_some_and(|files| !files.is_empty());
    if text.is_none() && html.is_none() && !has_files {
        match template {
            render::Content::None => {
                let message = "`text` or `html` is required if there are no attachments";
                Pointer::Field(&at, "text").fault(faults, Code::Required, message);
            }
            render::Content::Rendered(_) => {
                let message = "the template renders no `text` or `html`, and there are no attachments";
                Pointer::Field(&at, "template").fault(faults, Code::Required, message);
            }
            render::Content::NotLoaded | render::Content::Invalid => {}
        }
    }
    let headers = headers::headers(fields.take("headers"), context.limits.headers, faults);
    let in_reply_to = reply::in_reply_to(fields.take("in_reply_to"), &headers, &at, faults);
    let attachments = attachments(&mut fields, files, context, faults);
    let stream = stream(fields.take("stream"), context.streams, faults);
    let Common { tags, metadata, window, on_uncertain, ignore_suppression } = common(&mut fields, context, faults);

    if faults.len() > before {
        return None;
    }
    let (template, warnings) = match template {
        render::Content::Rendered(rendered) => (Some(rendered.which), rendered.warnings),
        _ => (None, Vec::new()),
    };
    Some(NewMessage {
        id: MessageId::new(context.now),
        created_at: context.now,
        from: from?,
        recipients,
        reply_to,
        subject: subject?,
        content: Content { text: text.flatten(), html: html.flatten(), headers },
        attachments,
        tags,
        metadata,
        stream: stream.into_owned(),
        scheduled_at: window.scheduled_at,
        expires_at: window.expires_at,
        on_uncertain,
        ignore_suppression,
        message_id: None,
        in_reply_to,
        bulk: None,
        relay: None,
        template,
        warnings,
    })
}

/// Parses the attachments in `files`, the value of the field `attachments`, and adds those of the field `alternatives`.
pub(in crate::accept::request) fn attachments(
    fields: &mut Fields<'_, '_>,
    files: Option<Node<'_, '_>>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Vec<NewAttachment> {
    let mut attachments = attachments::attachments(files, context, faults);
    alternatives::add(fields.take("alternatives"), &mut attachments, faults);
    attachments
}

/// Fields that a message and a bulk have in common.
pub(in crate::accept::request) struct Common {
    pub tags: Vec<Tag>,
    pub metadata: Map<String, Value>,
    pub window: Window,
    pub on_uncertain: OnUncertain,
    pub ignore_suppression: bool,
}

/// Parses the fields of [`Common`].
pub(in crate::accept::request) fn common(
    fields: &mut Fields<'_, '_>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Common {
    Common {
        tags: tags::tags(fields.take("tags"), context.limits.tags, faults),
        metadata: metadata::metadata(fields.take("metadata"), faults),
        window: schedule::window(fields, context, faults),
        on_uncertain: on_uncertain(fields.take("on_uncertain"), faults),
        ignore_suppression: fields.take("ignore_suppression").and_then(|node| node.boolean(faults)).unwrap_or(false),
    }
}

/// A body: `None` if it is absent, `Some(None)` if it is invalid.
pub(in crate::accept::request) type Body = Option<Option<String>>;

/// Returns the text and the HTML: those of the template, or else those of the request.
pub(in crate::accept::request) fn bodies(
    fields: &mut Fields<'_, '_>,
    template: &mut render::Content,
    faults: &mut Faults,
) -> (Body, Body) {
    let (mut text, mut html) = (fields.take("text"), fields.take("html"));
    if template.is_some() {
        for node in [text.take(), html.take()].into_iter().flatten() {
            let message = "must not be given together with `template`, which has the bodies";
            node.at.fault(faults, Code::InvalidValue, message);
        }
    }
    let (text, html): (Body, Body) = match template {
        render::Content::Rendered(rendered) => {
            (rendered.parts.text.take().map(Some), rendered.parts.html.take().map(Some))
        }
        _ => (text.map(|node| node.prose(faults)), html.map(|node| node.prose(faults))),
    };
    let html = html.filter(|html| !is_blank(html.as_deref()));
    // With an `html`, an empty text also counts as absent.
    (text.filter(|text| html.is_none() || !is_blank(text.as_deref())), html)
}

/// Returns whether a body is blank. A blank body counts as absent, because a mail client would show it instead of the
/// other body.
fn is_blank(body: Option<&str>) -> bool {
    body.is_some_and(|body| body.trim().is_empty())
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
pub(in crate::accept::request) fn on_uncertain(node: Option<Node<'_, '_>>, faults: &mut Faults) -> OnUncertain {
    let Some(node) = node else { return OnUncertain::default() };
    let at = node.at;
    let Some(value) = node.string(faults) else { return OnUncertain::default() };
    value.parse().unwrap_or_else(|()| {
        at.fault(faults, Code::InvalidValue, "use `retry`, `hold` or `fail`");
        OnUncertain::default()
    })
}
