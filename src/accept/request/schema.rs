//! The body of `POST /v1/messages` for the API documentation, and for Rust programs that create one.
//!
//! [`super::send`] parses the body; a test checks that both have the same fields.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::outcome::OnUncertain;

/// One message to send.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendRequest {
    /// The sender. Required, unless `template` has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<AddressInput>,
    /// Recipients in `To`. The request needs at least one recipient in `to`, `cc` or `bcc`, and may have 50 in all
    /// three together. Duplicate addresses are sent to once.
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
    #[schema(example = json!({"X-Entity-Ref": "42"}))]
    pub headers: Option<BTreeMap<String, String>>,
    /// Up to 20 files and inline images.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub attachments: Option<Vec<AttachmentInput>>,
    /// Up to 20 names and values by which messages can be filtered. Status and events contain them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_items = 20)]
    pub tags: Option<Vec<TagInput>>,
    /// Up to 50 strings, 16 KiB together. Status and events contain them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = json!({"order": "42"}))]
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

/// An attached file, or an image inside the HTML.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AttachmentInput {
    /// The file name shown to the recipient.
    #[schema(example = "invoice.pdf", min_length = 1, max_length = 255)]
    pub filename: String,
    /// The content in base64 (RFC 4648 §4: standard alphabet, padded). White space is skipped.
    #[schema(example = "JVBERi0xLjcK")]
    pub content: String,
    /// The media type; by default it is guessed from the file name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "application/pdf", max_length = 255)]
    pub content_type: Option<String>,
    /// Makes the file inline: `cid:` links in the HTML refer to it by this id, which must be unique in the message.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "logo", max_length = 128)]
    pub content_id: Option<String>,
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
    #[schema(example = json!({"name": "Ann", "order": 42}))]
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
            attachments: None,
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
