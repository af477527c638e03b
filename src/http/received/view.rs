//! Received messages in API responses.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::db::receiving::messages::{ContentRow, ReceivedRow, RelayedRow};
use crate::domain::event::EventSender;
use crate::domain::id::{InboundRouteId, MessageId, ReceivedId};
use crate::mail::received::ReceivedAttachment;

/// A received message, without its content.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ReceivedMessage)]
pub struct ReceivedMessageView {
    /// The received message's id.
    #[schema(value_type = String, example = "rcv_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: ReceivedId,
    /// When it was received.
    #[schema(example = "2026-11-24T09:00:00Z")]
    pub received_at: DateTime<Utc>,
    /// The inbound route; it may have been deleted. Of a bounce to a rewritten sender (`inbound.srs_domain`), the digits are zeros.
    #[schema(value_type = String, example = "irt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub route_id: InboundRouteId,
    /// The sender in `From`; null if there is none. Anybody can write any address there.
    pub from: Option<EventSender>,
    /// The recipients of the SMTP envelope that the route matched.
    #[schema(example = json!(["reply+42@reply.acme.test"]))]
    pub to: Vec<String>,
    /// The decoded subject.
    #[schema(example = "Re: Your invoice")]
    pub subject: String,
    /// The value of the `Message-ID` header, in angle brackets; null if there is none.
    #[schema(example = "<CAF-42@mail.example.test>")]
    pub message_id: Option<String>,
    /// The ids in `In-Reply-To`, in angle brackets.
    #[schema(example = json!(["<019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a@acme.test>"]))]
    pub in_reply_to: Vec<String>,
    /// The ids in `References`, in angle brackets.
    #[schema(example = json!(["<019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a@acme.test>"]))]
    pub references: Vec<String>,
    /// The id of the message that it answers, found by `In-Reply-To`, `References`, or a token of the return path in the
    /// recipient's address; null if it is unknown.
    #[schema(value_type = Option<String>, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7a")]
    pub answers: Option<MessageId>,
    /// The rule by which it is an automatic reply, such as `auto-submitted`; null if it is none. Do not answer automatic replies.
    #[schema(example = "auto-submitted")]
    pub auto_reply: Option<String>,
    /// The verdicts of SPF, DKIM, DMARC and ARC; null if none were determined (`inbound.authenticate`).
    pub authentication: Option<AuthenticationView>,
    /// The SMTP envelope.
    pub envelope: EnvelopeView,
    /// All parts but the text, in order. `GET /v1/received/{id}/attachments/{n}` returns the one with this index.
    pub attachments: Vec<ReceivedAttachmentView>,
    /// The size in bytes.
    #[schema(example = 2048)]
    pub size: i32,
}

/// The SMTP envelope of a received message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ReceivedEnvelope)]
pub struct EnvelopeView {
    /// The reverse path (`MAIL FROM`); empty for the null sender.
    #[schema(example = "ann@example.test")]
    pub from: String,
    /// The name of the client in EHLO or HELO.
    #[schema(example = "mx.example.test")]
    pub helo: String,
    /// The IP address of the client.
    #[schema(example = "203.0.113.9")]
    pub remote_address: String,
}

/// The verdicts about a received message. Only DMARC says something about the address in `From`.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReceivedAuthentication)]
pub struct AuthenticationView {
    /// SPF: whether the client may send for the domain of the reverse path.
    pub spf: SpfView,
    /// DKIM: the signatures, in the order of the message.
    pub dkim: Vec<DkimView>,
    /// DMARC: whether SPF or DKIM confirm the domain in `From`.
    pub dmarc: DmarcView,
    /// ARC: whether the chain of servers that have authenticated the message before is intact.
    pub arc: ArcView,
}

/// The verdict of SPF.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReceivedSpf)]
pub struct SpfView {
    /// `pass`, `fail`, `softfail`, `neutral`, `none`, `temperror` or `permerror`.
    #[schema(example = "pass")]
    pub result: String,
    /// The domain of the reverse path, or else the client's name; null if it is unknown.
    #[schema(example = "example.test")]
    pub domain: Option<String>,
}

/// The verdict about a DKIM signature.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReceivedDkim)]
pub struct DkimView {
    /// `pass`, `fail`, `neutral`, `temperror` or `permerror`.
    #[schema(example = "pass")]
    pub result: String,
    /// The domain that signed; null if it is unknown.
    #[schema(example = "example.test")]
    pub domain: Option<String>,
    /// The selector of its key; null if it is unknown.
    #[schema(example = "s1")]
    pub selector: Option<String>,
}

/// The verdict of DMARC.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReceivedDmarc)]
pub struct DmarcView {
    /// `pass`, `fail`, `none` (no policy is published), `temperror` or `permerror`.
    #[schema(example = "pass")]
    pub result: String,
    /// The domain in `From`; null if there is none.
    #[schema(example = "example.test")]
    pub domain: Option<String>,
    /// What its owner asks for if it fails: `none`, `quarantine` or `reject`; null if nothing is published.
    #[schema(example = "reject")]
    pub policy: Option<String>,
}

/// The verdict of ARC.
#[derive(Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(as = ReceivedArc)]
pub struct ArcView {
    /// `pass`, `fail`, `none`, `neutral`, `temperror` or `permerror`.
    #[schema(example = "none")]
    pub result: String,
}

/// An attachment of a received message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ReceivedAttachment)]
pub struct ReceivedAttachmentView {
    /// The file name; null if there is none. It comes from the sender: do not use it as a path.
    #[schema(example = "invoice.pdf")]
    pub filename: Option<String>,
    /// The media type, without parameters.
    #[schema(example = "application/pdf")]
    pub content_type: String,
    /// The id that HTML refers to as `cid:…`; null if there is none.
    #[schema(example = "logo")]
    pub content_id: Option<String>,
    /// Whether it is to be shown within the HTML.
    #[schema(example = false)]
    pub inline: bool,
    /// The decoded size in bytes.
    #[schema(example = 1024)]
    pub size: u64,
}

/// A received message with its content.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReceivedWithContent {
    /// The received message.
    #[serde(flatten)]
    pub message: ReceivedMessageView,
    /// Where the message is passed on, if its route has the action `relay`: one entry for each recipient.
    pub relays: Vec<RelayedView>,
    /// All header fields, in order.
    pub headers: Vec<ReceivedHeader>,
    /// The plain text, decoded; null if there is none. At most 1 MiB.
    #[schema(example = "Yes, please.\n\nOn Tue, Acme wrote:\n> Shall we?")]
    pub text: Option<String>,
    /// The HTML, decoded; null if there is none. At most 1 MiB. It comes from the sender: remove scripts before you show it.
    #[schema(example = "<p>Yes, please.</p>")]
    pub html: Option<String>,
    /// The text without quoted messages and signature, as far as they can be recognised; null if there is no text.
    #[schema(example = "Yes, please.")]
    pub reply_text: Option<String>,
}

/// A recipient to whom a received message is passed on.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ReceivedRelay)]
pub struct RelayedView {
    /// The recipient.
    #[schema(example = "support@reply.acme.test")]
    pub to: String,
    /// The message that is sent (`GET /v1/messages/{id}`); null for the moment until it is created.
    #[schema(value_type = Option<String>, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub message_id: Option<MessageId>,
    /// Its status: `relayed` if the server has accepted it; null if it is still to be created, or was deleted.
    #[schema(value_type = Option<crate::domain::delivery::Status>, example = "relayed")]
    pub status: Option<String>,
    /// The report of the failure that was sent to the sender; null if there is none.
    #[schema(value_type = Option<String>, example = json!(null))]
    pub report_id: Option<MessageId>,
}

impl From<RelayedRow> for RelayedView {
    fn from(row: RelayedRow) -> Self {
        let RelayedRow { recipient: to, message_id, status, report_id } = row;
        Self { to, message_id: message_id.map(MessageId), status, report_id: report_id.map(MessageId) }
    }
}

/// A header field of a received message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ReceivedHeader {
    /// The name.
    #[schema(example = "Subject")]
    pub name: String,
    /// The value: unfolded, encoded words decoded.
    #[schema(example = "Re: Your invoice")]
    pub value: String,
}

impl ReceivedMessageView {
    pub(super) fn from_row(row: ReceivedRow) -> Self {
        let bracketed = |ids: Vec<String>| ids.into_iter().map(|id| format!("<{id}>")).collect();
        let attachments: Vec<ReceivedAttachment> = serde_json::from_value(row.attachments).unwrap_or_default();
        Self {
            id: ReceivedId(row.id),
            received_at: row.received_at,
            route_id: InboundRouteId(row.route_id),
            from: row.from_address.map(|email| EventSender { email, name: row.from_name }),
            to: row.envelope_to,
            subject: row.subject,
            message_id: row.internet_message_id.map(|id| format!("<{id}>")),
            in_reply_to: bracketed(row.in_reply_to),
            references: bracketed(row.references),
            answers: row.answered_message_id.map(MessageId),
            auto_reply: row.auto_reply,
            authentication: row.authentication.and_then(|verdicts| serde_json::from_value(verdicts).ok()),
            envelope: EnvelopeView { from: row.envelope_from, helo: row.helo, remote_address: row.remote_address },
            attachments: attachments.into_iter().map(ReceivedAttachmentView::from).collect(),
            size: row.size,
        }
    }

    pub(super) fn with_content(self, content: ContentRow, relays: Vec<RelayedRow>) -> ReceivedWithContent {
        let ContentRow { headers, text, html, reply_text } = content;
        let headers = serde_json::from_value(headers).unwrap_or_default();
        let relays = relays.into_iter().map(RelayedView::from).collect();
        ReceivedWithContent { message: self, relays, headers, text, html, reply_text }
    }
}

impl From<ReceivedAttachment> for ReceivedAttachmentView {
    fn from(attachment: ReceivedAttachment) -> Self {
        let ReceivedAttachment { filename, content_type, content_id, inline, size } = attachment;
        Self { filename, content_type, content_id, inline, size }
    }
}
