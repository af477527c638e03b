//! Parses the body of `POST /v1/messages/bulk`: a message without recipients, and the list `recipients`.
//!
//! The recipients are first located without parsing them ([`Layout`]), and then parsed one by one, so that the JSON tree of
//! only one is in memory. Each has its own faults, with pointers into the whole body. Of a template, only
//! the parts that become header fields are rendered, and the bodies if rendering them could fail.

mod layout;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use memchr::memmem;
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::batch::{MessageKey, Refused, idempotency_key};
use super::files::{self, Files};
use super::json::fields::{Fields, duplicate};
use super::json::pointer::Pointer;
use super::json::walk::Node;
use super::message::render::{self, NotLoaded, PinnedTemplate};
use super::message::{address, headers, metadata, send};
use super::{Context, Rejection, RequestHashes, digest, json};
use crate::domain::address::Mailbox;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::{Content, NewAttachment, Tag, Warning};
use crate::domain::outcome::OnUncertain;
use crate::rendering::merged;
use crate::template::Program;

pub use layout::Layout;

/// The field with the recipients.
const RECIPIENTS: &str = "recipients";
/// The stream of a bulk without the field `stream`, if it exists.
pub const DEFAULT_STREAM: &str = "bulk";

/// The fields of a bulk besides `recipients`.
pub const FIELDS: &[&str] = &[
    "from",
    "reply_to",
    "subject",
    "text",
    "html",
    "headers",
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
/// The fields of a recipient.
pub const RECIPIENT_FIELDS: &[&str] = &["to", "variables", "metadata", "idempotency_key"];

/// Number of faults that a response lists for all recipients together.
const MAX_FAULTS: usize = 1_000;
/// Number of faults listed for a recipient once the recipients before it have [`MAX_FAULTS`].
const MIN_FAULTS_PER_RECIPIENT: usize = 1;
/// Maximum number of warnings in the response.
const MAX_WARNINGS: usize = 20;
/// Memory for each recipient besides its texts, in bytes: as a struct, and as a row of several columns.
const RECIPIENT_BYTES: usize = 512;

/// A parsed bulk.
#[derive(Debug)]
pub struct Bulk {
    /// What its messages have in common.
    pub message: BulkMessage,
    /// The valid recipients, in the order of the request.
    pub recipients: Vec<BulkRecipient>,
    /// The invalid recipients.
    pub refused: Vec<Refused>,
    /// Problems to report in the response.
    pub warnings: Vec<Warning>,
    /// The domain of the sender of all messages; `None` if there is no valid recipient.
    pub from_domain: Option<String>,
    /// The hashes of the whole request, if the caller asked for them.
    pub hashes: Option<RequestHashes>,
}

/// What the messages of a bulk have in common.
#[derive(Debug)]
pub struct BulkMessage {
    /// The sender; `None` if the template renders it.
    pub from: Option<Mailbox>,
    /// Addresses for replies; `None` if the template renders them.
    pub reply_to: Option<Vec<Mailbox>>,
    /// The subject; `None` if the template renders it.
    pub subject: Option<String>,
    /// Bodies and custom headers; without bodies if there is a template.
    pub content: Content,
    /// Files and inline images.
    pub attachments: Vec<NewAttachment>,
    /// Tags.
    pub tags: Vec<Tag>,
    /// Metadata.
    pub metadata: Map<String, serde_json::Value>,
    /// The stream.
    pub stream: String,
    /// No attempt starts before this time.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// No attempt starts after this time.
    pub expires_at: Option<DateTime<Utc>>,
    /// What to do if the connection drops after the final dot.
    pub on_uncertain: OnUncertain,
    /// Whether the messages are also sent to suppressed addresses.
    pub ignore_suppression: bool,
    /// The template that the messages are rendered from.
    pub template: Option<PinnedTemplate>,
}

/// A recipient of a bulk.
#[derive(Debug)]
pub struct BulkRecipient {
    /// Its position in the request, from 0.
    pub index: usize,
    /// Address and display name.
    pub mailbox: Mailbox,
    /// Its own template variables, a JSON object; `None` if the bulk has no template.
    pub variables: Option<String>,
    /// The size of its rendered bodies, in bytes, or an upper limit of it; 0 if the bulk has no template.
    pub size: usize,
    /// Its own metadata, a JSON object; `None` if it has none.
    pub metadata: Option<String>,
    /// Its own idempotency key.
    pub key: Option<MessageKey>,
}

impl Bulk {
    /// Returns the memory that a bulk takes until it is committed, in bytes. `body` is the size of the request's body.
    pub fn memory(body: usize, recipients: usize) -> u64 {
        (2 * body + recipients * RECIPIENT_BYTES) as u64
    }
}

/// Parses a request. `is_keyed` asks for the hashes by which requests with the same `Idempotency-Key` are compared. Fails if
/// no recipient is valid.
pub fn parse(body: &[u8], layout: &Layout, context: &Context<'_>, is_keyed: bool) -> Result<Bulk, Rejection> {
    let text = json::text(body)?;
    let value = layout.message(text)?;
    let message_digest = digest::with_files(&value, context.files);
    let mut faults = Faults::default();
    files::check(&value, context.files, &mut faults)?;
    let message = message(Node::root(value), context, &mut faults);
    let missing = context.templates.take_missing();
    if !missing.is_empty() {
        return Err(Rejection::NeedsTemplates(missing));
    }
    let Some(message) = message.filter(|_| faults.is_empty()) else {
        return Err(Rejection::Invalid(faults.into_vec()));
    };

    let mut bulk = Bulk {
        message,
        recipients: Vec::with_capacity(layout.count()),
        refused: Vec::new(),
        warnings: Vec::new(),
        from_domain: None,
        hashes: None,
    };
    let mut hash = is_keyed.then(|| CallHash::new(&message_digest, layout));
    let mut listed = 0;
    let list = Pointer::Field(&Pointer::Root, RECIPIENTS);
    for (index, range) in layout.recipients.iter().enumerate() {
        let value = json::read_part(text, range.clone(), json::MAX_VALUES)?;
        // Needed only for the digest of the whole request, and for a recipient with an idempotency key.
        let digest = if is_keyed || has_key(text, range) { digest::digest(&value) } else { Default::default() };
        if let Some(hash) = &mut hash {
            hash.0.update(digest);
        }
        let mut faults =
            Faults::with_limit(MAX_FAULTS.saturating_sub(listed).clamp(MIN_FAULTS_PER_RECIPIENT, Faults::LIMIT));
        let at = Pointer::Index(&list, index);
        let parsed = recipient(Node { value, at }, (&message_digest, &digest), context, &mut bulk, &mut faults);
        if context.templates.are_exhausted() {
            let message = "the template takes too much work for this number of recipients; send them in several bulks";
            let mut faults = Faults::default();
            Pointer::Field(&Pointer::Root, "template").fault(&mut faults, Code::TooExpensive, message);
            return Err(Rejection::Invalid(faults.into_vec()));
        }
        match parsed {
            Some((recipient, domain)) if faults.is_empty() => {
                bulk.from_domain.get_or_insert(domain);
                bulk.recipients.push(BulkRecipient { index, ..recipient });
            }
            _ => {
                let errors = faults.into_vec();
                listed += errors.len();
                bulk.refused.push(Refused { index, errors });
            }
        }
    }
    if bulk.recipients.is_empty() {
        return Err(Rejection::Invalid(super::batch::all_faults(Vec::new(), bulk.refused)));
    }
    bulk.hashes = hash.map(|hash| hash.finish(body, context.files));
    Ok(bulk)
}

/// Returns the hashes of a request without validating it, as [`super::hashes`] does.
pub fn hashes(body: &[u8], layout: &Layout, files: &Files) -> Result<RequestHashes, Rejection> {
    let text = json::text(body)?;
    let mut hash = CallHash::new(&digest::with_files(&layout.message(text)?, files), layout);
    for range in &layout.recipients {
        hash.0.update(digest::digest(&json::read_part(text, range.clone(), json::MAX_VALUES)?));
    }
    Ok(hash.finish(body, files))
}

/// Returns whether the text of a recipient may have an idempotency key.
fn has_key(text: &str, range: &std::ops::Range<usize>) -> bool {
    text.as_bytes().get(range.clone()).is_some_and(|part| memmem::find(part, b"idempotency_key").is_some())
}

/// Parses everything but the recipients. Returns `None` when it has added a fault, or when its template is not loaded.
fn message(node: Node<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<BulkMessage> {
    let Node { value, at } = node;
    if value.as_object().is_some_and(|object| object.iter().any(|(name, _)| name == RECIPIENTS)) {
        duplicate(&Pointer::Field(&at, RECIPIENTS), RECIPIENTS, faults);
        return None;
    }
    let before = faults.len();
    let mut fields = Fields::open(value, &at, FIELDS, faults)?;
    let has_template = fields.has("template");
    let template = match render::pinned(&mut fields, context.templates, faults) {
        Ok(template) => template,
        // The body is parsed again once the template is loaded.
        Err(NotLoaded) => return None,
    };
    let program = template.as_ref().map(|template| &*template.program);
    let from = fields.take("from").map(|node| address::sender(node, faults));
    let reply_to = fields.take("reply_to").map(|node| address::reply_to(Some(node), faults));
    let subject = fields.take("subject").map(|node| node.line(0..=send::MAX_SUBJECT, faults).map(Cow::into_owned));
    for (name, is_given, is_rendered) in [
        ("from", from.is_some(), program.map(Program::has_from)),
        ("subject", subject.is_some(), program.map(Program::has_subject)),
    ] {
        let at = Pointer::Field(&at, name);
        match (is_given, is_rendered) {
            (true, _) | (false, Some(true)) => {}
            (false, Some(false)) => {
                let message = format_args!("`{name}` is required, because the template has none");
                at.fault(faults, Code::Required, message);
            }
            // A fault of the template has been added.
            (false, None) if has_template => {}
            (false, None) => at.fault(faults, Code::Required, format_args!("`{name}` is required")),
        }
    }
    let mut none = if has_template { render::Content::Invalid } else { render::Content::None };
    let (text, html) = send::bodies(&mut fields, &mut none, faults);
    let files = fields.take("attachments");
    let has_files = files.as_ref().and_then(|node| node.value.as_array()).is_some_and(|files| !files.is_empty());
    if text.is_none() && html.is_none() && !has_files && !has_template {
        let message = "`template`, `text` or `html` is required if there are no attachments";
        Pointer::Field(&at, "text").fault(faults, Code::Required, message);
    }
    let headers = headers::headers(fields.take("headers"), context.limits.headers, faults);
    let attachments = send::attachments(&mut fields, files, context, faults);
    let stream = match fields.take("stream") {
        None if context.streams.iter().any(|stream| stream == DEFAULT_STREAM) => DEFAULT_STREAM.into(),
        node => send::stream(node, context.streams, faults),
    };
    let send::Common { tags, metadata, window, on_uncertain, ignore_suppression } =
        send::common(&mut fields, context, faults);
    if faults.len() > before {
        return None;
    }
    Some(BulkMessage {
        from: from.flatten(),
        reply_to: reply_to.or_else(|| template.is_none().then(Vec::new)),
        subject: subject.flatten(),
        content: Content { text: text.flatten(), html: html.flatten(), headers },
        attachments,
        tags,
        metadata,
        stream: stream.into_owned(),
        scheduled_at: window.scheduled_at,
        expires_at: window.expires_at,
        on_uncertain,
        ignore_suppression,
        template,
    })
}

/// Parses a recipient, and checks that its message can be rendered. Its index is set by the caller. Also returns the domain of
/// the sender.
fn recipient(
    node: Node<'_, '_>,
    (message_digest, own_digest): (&[u8; 32], &[u8; 32]),
    context: &Context<'_>,
    bulk: &mut Bulk,
    faults: &mut Faults,
) -> Option<(BulkRecipient, String)> {
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, RECIPIENT_FIELDS, faults)?;
    let mailbox = fields.require("to", faults).and_then(|node| address::recipient(node, context, faults));
    let metadata = metadata::metadata(fields.take("metadata"), faults);
    let key = fields.take("idempotency_key").and_then(|node| idempotency_key(node, faults));
    let variables = fields.take("variables");
    let (from, variables, size) = match &bulk.message.template {
        None => {
            if let Some(node) = variables {
                let message = "only a bulk with a `template` has variables; put the text into a template";
                node.at.fault(faults, Code::InvalidValue, message);
            }
            (bulk.message.from.clone()?, None, 0)
        }
        Some(template) => {
            let before = faults.len();
            let own = variables.map_or_else(Map::new, |node| render::variables(node, faults));
            if faults.len() > before {
                return None;
            }
            let rendered = verify(template, &own, &at, context, faults)?;
            let size = rendered.parts.size;
            let from = check_rendered(&bulk.message, rendered, &at, &mut bulk.warnings, faults)?;
            (from, Some(serde_json::Value::Object(own).to_string()), size)
        }
    };
    let domain = from.address.domain().to_owned();
    if let Some(first) = bulk.from_domain.as_ref().filter(|first| **first != domain) {
        let message = format_args!(
            "all messages of a bulk must have the same sender domain; this one has {domain}, others have {first}"
        );
        Pointer::Field(&at, "variables").fault(faults, Code::InvalidValue, message);
    }
    let key = key.map(|value| {
        let digest = Sha256::new_with_prefix(b"bulk").chain_update(message_digest).chain_update(own_digest).finalize();
        MessageKey { value, digest: digest.into() }
    });
    let metadata = (!metadata.is_empty()).then(|| serde_json::Value::Object(metadata).to_string());
    Some((BulkRecipient { index: 0, mailbox: mailbox?, variables, size, metadata, key }, domain))
}

/// Checks the variables of a recipient together with those that all recipients share.
fn verify(
    template: &PinnedTemplate,
    own: &Map<String, serde_json::Value>,
    at: &Pointer<'_>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Option<render::RenderedTemplate> {
    if template.variables.is_empty() {
        return render::verify(template, own, at, context.templates, faults);
    }
    let all = merged(&template.variables, own);
    render::verify(template, &all, at, context.templates, faults)
}

/// Checks the sender and the addresses for replies that the template renders because the request has none. Returns the
/// sender.
fn check_rendered(
    message: &BulkMessage,
    mut rendered: render::RenderedTemplate,
    at: &Pointer<'_>,
    warnings: &mut Vec<Warning>,
    faults: &mut Faults,
) -> Option<Mailbox> {
    let free = MAX_WARNINGS.saturating_sub(warnings.len());
    warnings.extend(std::mem::take(&mut rendered.warnings).into_iter().take(free));
    let before = faults.len();
    let rendered = render::Content::Rendered(Box::new(rendered));
    let from = message.from.clone().or_else(|| rendered.sender(at, faults));
    if message.reply_to.is_none() {
        rendered.reply_to(at, faults);
    }
    from.filter(|_| faults.len() == before)
}

/// The digest of a request. It depends on the message and the recipients, and not on the form of the body.
struct CallHash(Sha256);

impl CallHash {
    fn new(message: &[u8; 32], layout: &Layout) -> Self {
        let mut hash = Sha256::new_with_prefix(b"bulk call");
        hash.update(message);
        hash.update((layout.count() as u64).to_be_bytes());
        Self(hash)
    }

    fn finish(self, body: &[u8], files: &Files) -> RequestHashes {
        RequestHashes::with_digest(self.0.finalize().into(), body, files)
    }
}
