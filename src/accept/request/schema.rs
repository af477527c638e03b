//! The bodies of requests that send messages, single, in batches or in bulk, for the API documentation and for Rust
//! programs that create one.
//!
//! [`super::message::send`], [`super::batch`] and [`super::bulk`] parse the bodies; tests check that the parsers and
//! these types have the same fields.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::batch::Validation;
use crate::domain::api::binary::Binary;
use crate::domain::api::open_object::{MessageHeaders, MessageMetadata, TemplateValues};
use crate::domain::outcome::OnUncertain;

/// One message to send.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// The sender. Required, unless `template` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<AddressInput>,
    /// Recipients in `To`. The request needs at least one recipient in `to`, `cc` or `bcc`, and may have 50 in all
    /// three together. Duplicate addresses are sent to once. To try every outcome, send to
    /// `SCRIPT@simulator.postrider.test`, for example `bounce@…`; nothing leaves the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<AddressesInput>,
    /// Recipients in `Cc`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cc: Option<AddressesInput>,
    /// Recipients in no header of the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bcc: Option<AddressesInput>,
    /// Addresses for replies, up to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<AddressesInput>,
    /// One line of up to 998 characters; may be empty. Required, unless `template` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Your invoice", max_length = 998)]
    pub subject: Option<String>,
    /// The plain text body, with any line ends. With an `html`, an empty text counts as absent. At least one of `text`,
    /// `html`, `attachments` and `template` is required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Thank you for your order.")]
    pub text: Option<String>,
    /// The HTML body, with any line ends. An empty body counts as absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "<p>Thank you for your order.</p>")]
    pub html: Option<String>,
    /// Up to 50 custom headers. A name is up to 76 printable ASCII characters without a colon; a value is one line of
    /// up to 998 characters. Headers of ids, URLs and keywords (`References`, `List-Unsubscribe`, …) must be ASCII, up
    /// to 8000 characters, without a part longer than a line. Headers that the service sets itself, sets from other
    /// fields, or leaves to other servers are refused: `apparently-to`, `arc-*`, `authentication-results`, `bcc`, `cc`,
    /// `content-*`, `date`, `delivered-to`, `dkim-signature`, `domainkey-signature`, `from`, `message-id`,
    /// `mime-version`, `received`, `received-*`, `reply-to`, `resent-*`, `return-path`, `sender`, `subject`, `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageHeaders>, example = json!({"X-Entity-Ref": "42"}))]
    pub headers: Option<BTreeMap<String, String>>,
    /// The id of an earlier message that this one replies to. Sets `In-Reply-To` and `References`, so that mail clients
    /// show both in one thread; `headers` must not set them too.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub in_reply_to: Option<String>,
    /// Up to 20 files and inline images, together up to 40 MiB. A file of the type `text/calendar` with a `method`, or `text/x-amp-html`, is
    /// sent as an alternative, unless there is one of its type already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub attachments: Option<Vec<AttachmentInput>>,
    /// Up to 5 other forms of the text, of different types: an invitation, or AMP. Mail clients show the last form that
    /// they support; the order in the message is text, AMP and others, HTML, invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 5)]
    pub alternatives: Option<Vec<AlternativeInput>>,
    /// Up to 20 names and values by which messages can be filtered. Status and events contain them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub tags: Option<Vec<TagInput>>,
    /// Up to 50 strings, 16 KiB together. Status and events contain them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageMetadata>, example = json!({"order": "42"}))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// A published template and its variables. It has the bodies, so `text` and `html` must not be given with it; `from`,
    /// `reply_to` and `subject` take precedence over those of the template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateInput>,
    /// The stream; `transactional` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "transactional")]
    pub stream: Option<String>,
    /// The message is not sent before this time, up to 365 days ahead. A time in the past means now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The message is not sent after this time, which must be in the future and later than `scheduled_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T10:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What to do if the connection drops after the message was transferred and before the server's reply; `retry` by
    /// default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_uncertain: Option<OnUncertain>,
    /// Whether to send to addresses on the suppression list too, for whatever reason they are listed, including
    /// complaints. Needs a key with the scope `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub ignore_suppression: Option<bool>,
}

/// A message with its files, as a form. An attachment in `message` refers to a file by the name of its part:
/// `{"filename": "invoice.pdf", "part": "invoice"}`. The parts may have any order.
#[derive(Debug, ToSchema)]
pub struct MessageForm {
    /// The message, as JSON of up to 1 MiB.
    pub message: SendRequest,
    /// The files. Every part must be used by an attachment. Their own file names and types are ignored.
    #[serde(flatten)]
    pub files: BTreeMap<String, Binary>,
}

/// A batch with its files, as a form. The attachments in `messages` refer to a file by the name of its part:
/// `{"filename": "terms.pdf", "part": "terms"}`; several messages may use the same part. The parts may have any order.
#[derive(Debug, ToSchema)]
pub struct BatchForm {
    /// The batch, as JSON of up to 40 MiB (`accept.max_body_mib`).
    pub messages: BatchRequest,
    /// Up to 1,000 files. Every part must be used by an attachment of a message. Their own file names and types are ignored.
    #[serde(flatten)]
    pub files: BTreeMap<String, Binary>,
}

/// A bulk with its files, as a form. An attachment in `message` refers to a file by the name of its part:
/// `{"filename": "map.pdf", "part": "map"}`. The parts may have any order.
#[derive(Debug, ToSchema)]
pub struct BulkForm {
    /// The bulk, as JSON of up to 40 MiB (`accept.max_body_mib`).
    pub message: BulkRequest,
    /// The files. Every part must be used by an attachment. Their own file names and types are ignored.
    #[serde(flatten)]
    pub files: BTreeMap<String, Binary>,
}

/// An address, with or without a name.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AddressInput {
    /// `a@b`, `Name <a@b>` or `"Quoted, Name" <a@b>`; one address only.
    #[schema(example = "Acme Billing <billing@acme.test>")]
    Text(String),
    /// The address and the name as separate fields.
    Parts(AddressParts),
}

/// An address and its name as separate fields.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressParts {
    /// The bare address, up to 254 bytes.
    #[schema(example = "bo@example.test")]
    pub email: String,
    /// The display name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Bo Å", max_length = 256)]
    pub name: Option<String>,
}

/// One address or several.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum AddressesInput {
    /// A single address.
    One(AddressInput),
    /// Several addresses.
    Many(Vec<AddressInput>),
}

/// An attached file, or an image inside the HTML. Its bytes are given by one of `content`, `sha256` and `part`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachmentInput {
    /// The file name shown to the recipient.
    #[schema(example = "invoice.pdf", min_length = 1, max_length = 255)]
    pub filename: String,
    /// The content in base64 (RFC 4648 §4: standard alphabet, padded). White space is skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "JVBERi0xLjcK")]
    pub content: Option<String>,
    /// The SHA-256 of a file that was uploaded with `PUT /v1/blobs/{sha256}`, or attached to an earlier message, as 64
    /// hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^[0-9A-Fa-f]{64}$")]
    pub sha256: Option<String>,
    /// The name of a file part of the form, if the request is `multipart/form-data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 200)]
    pub part: Option<String>,
    /// The media type; by default it is guessed from the file name. `message/rfc822` is sent unencoded: its header must
    /// be ASCII, and its lines may have up to 998 bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "application/pdf", max_length = 255)]
    pub content_type: Option<String>,
    /// Makes the file inline: `cid:` links in the HTML refer to it by this id, which must be unique in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "logo", max_length = 128)]
    pub content_id: Option<String>,
}

/// Another form of the text.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AlternativeInput {
    /// The media type: any text type except `text/plain` and `text/html`. `text/calendar` needs the parameter `method`.
    /// The charset is utf-8.
    #[schema(example = "text/calendar; method=REQUEST", max_length = 255)]
    pub content_type: String,
    /// The content as text, with any line ends; not base64.
    #[schema(example = "BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\n…\r\nEND:VCALENDAR\r\n")]
    pub content: String,
}

/// A name and a value by which messages can be filtered.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TagInput {
    /// ASCII letters, digits, `_` and `-`.
    #[schema(example = "kind", pattern = "^[A-Za-z0-9_-]+$", min_length = 1, max_length = 256)]
    pub name: String,
    /// ASCII letters, digits, `_` and `-`.
    #[schema(example = "invoice", pattern = "^[A-Za-z0-9_-]+$", min_length = 1, max_length = 256)]
    pub value: String,
}

/// A published template and its variables.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TemplateInput {
    /// The template's id or alias.
    #[schema(example = "invoice")]
    pub id: String,
    /// The version to send; the latest one by default. It is fixed when the message is accepted: a later publication does
    /// not change the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, example = 3)]
    pub version: Option<i32>,
    /// The values of the template's variables, up to 200, 256 KiB together. Variables that the template does not declare
    /// are ignored, and reported in `warnings`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TemplateValues>, example = json!({"name": "Ann", "order": 42}))]
    pub variables: Option<serde_json::Map<String, serde_json::Value>>,
}

impl SendRequest {
    /// Creates the smallest message: one recipient, a subject and a plain text.
    pub fn plain(
        from: impl Into<String>,
        to: impl Into<String>,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        Self {
            from: Some(AddressInput::Text(from.into())),
            to: Some(AddressesInput::One(AddressInput::Text(to.into()))),
            cc: None,
            bcc: None,
            reply_to: None,
            subject: Some(subject.into()),
            text: Some(text.into()),
            html: None,
            headers: None,
            in_reply_to: None,
            attachments: None,
            alternatives: None,
            tags: None,
            metadata: None,
            template: None,
            stream: None,
            scheduled_at: None,
            expires_at: None,
            on_uncertain: None,
            ignore_suppression: None,
        }
    }
}

/// A batch of messages.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub enum BatchRequest {
    /// The messages, and what happens if some of them are not valid.
    Object(BatchInput),
    /// Only the messages, with strict validation.
    Messages(Vec<BatchMessageInput>),
}

/// Messages to send, and what happens if some of them are not valid.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchInput {
    /// 1 to 1,000 messages.
    #[schema(max_items = 1_000, min_items = 1)]
    pub messages: Vec<BatchMessageInput>,
    /// `strict` by default: all messages are accepted, or none. With `permissive`, the valid messages are accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<Validation>,
}

/// One message for many recipients. It has the fields of a single message, except those of the recipients and
/// `in_reply_to`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRequest {
    /// The sender. Required, unless `template` has one; all messages must have the same sender domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<AddressInput>,
    /// 1 to 10,000 recipients, each of which becomes a message of its own.
    #[schema(max_items = 10_000, min_items = 1)]
    pub recipients: Vec<BulkRecipientInput>,
    /// Addresses for replies, up to 10.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<AddressesInput>,
    /// One line of up to 998 characters; may be empty. Required, unless `template` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Our news", max_length = 998)]
    pub subject: Option<String>,
    /// The plain text body, the same for all recipients. At least one of `text`, `html`, `attachments` and `template` is
    /// required.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "We have moved.")]
    pub text: Option<String>,
    /// The HTML body, the same for all recipients.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "<p>We have moved.</p>")]
    pub html: Option<String>,
    /// Up to 50 custom headers, as those of a single message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageHeaders>, example = json!({"X-Campaign": "7"}))]
    pub headers: Option<BTreeMap<String, String>>,
    /// Up to 20 files and inline images, as those of a single message. They are stored once.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub attachments: Option<Vec<AttachmentInput>>,
    /// Up to 5 other forms of the text, as those of a single message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 5)]
    pub alternatives: Option<Vec<AlternativeInput>>,
    /// Up to 20 names and values by which messages can be filtered.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub tags: Option<Vec<TagInput>>,
    /// Up to 50 strings, 16 KiB together. An entry of a recipient's own `metadata` replaces the one with the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageMetadata>, example = json!({"campaign": "7"}))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// A published template. Its `variables` are those that all recipients have in common; a recipient's own variable
    /// replaces the one with the same name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<TemplateInput>,
    /// The stream; `bulk` by default if it exists, and `transactional` otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "bulk")]
    pub stream: Option<String>,
    /// No message is sent before this time, up to 365 days ahead. A time in the past means now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub scheduled_at: Option<DateTime<Utc>>,
    /// No message is sent after this time, which must be in the future and later than `scheduled_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T10:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// What to do if the connection drops after a message was transferred and before the server's reply; `retry` by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_uncertain: Option<OnUncertain>,
    /// Whether to send to addresses on the suppression list too. Needs a key with the scope `admin`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = false)]
    pub ignore_suppression: Option<bool>,
}

/// A recipient of a bulk.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BulkRecipientInput {
    /// The address.
    pub to: AddressInput,
    /// The recipient's own template variables. Only with a `template`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<TemplateValues>, example = json!({"name": "Ann"}))]
    pub variables: Option<serde_json::Map<String, serde_json::Value>>,
    /// The recipient's own metadata: up to 50 strings, 16 KiB together. Status and events contain it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<MessageMetadata>, example = json!({"customer": "42"}))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// 1 to 256 printable ASCII characters. If this recipient was accepted earlier with this key and the same message,
    /// nothing is sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "news-7-customer-42", min_length = 1, max_length = 256)]
    pub idempotency_key: Option<String>,
}

/// One message of a batch: everything that a single message may have, and its idempotency key.
#[derive(Debug, Clone, Serialize)]
pub struct BatchMessageInput {
    /// The message.
    #[serde(flatten)]
    pub message: SendRequest,
    /// The idempotency key.
    #[serde(flatten)]
    pub key: MessageKeyInput,
}

/// The fields of a message of a batch that a single message does not have.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct MessageKeyInput {
    /// 1 to 256 printable ASCII characters. If a message with this key was accepted earlier, in a batch or with the
    /// header `Idempotency-Key`, and is equal to this one, the batch's response refers to that message, and this one is
    /// not sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "order-42", min_length = 1, max_length = 256)]
    pub idempotency_key: Option<String>,
}

impl PartialSchema for BatchMessageInput {
    fn schema() -> RefOr<Schema> {
        // One object, because each of two combined ones would forbid the fields of the other.
        let (mut schema, key) = (SendRequest::schema(), MessageKeyInput::schema());
        if let (RefOr::T(Schema::Object(schema)), RefOr::T(Schema::Object(key))) = (&mut schema, key) {
            schema.properties.extend(key.properties);
            schema.description = Some("One message of a batch.".into());
        }
        schema
    }
}

impl ToSchema for BatchMessageInput {
    fn name() -> Cow<'static, str> {
        "BatchMessageInput".into()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        SendRequest::schemas(schemas);
    }
}
