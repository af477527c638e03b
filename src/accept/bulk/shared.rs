//! The data that all messages of a bulk share, and the message of each recipient.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize as _;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::message::render::{self, RenderedTemplate};
use crate::db::messages::ContentRow;
use crate::db::messages::bulks::BulkRow;
use crate::db::messages::bulks::expand::WaitingRow;
use crate::domain::address::Mailbox;
use crate::domain::api::fault::Faults;
use crate::domain::id::{BulkId, KeyId, MessageId, RecipientId, TemplateId, TenantId};
use crate::domain::message::bulk::{BulkMember, BulkState, SharedMessage, StoredMailbox};
use crate::domain::message::template::TemplateVersion;
use crate::domain::message::{Attachment, Content, Header, NewAttachment, NewMessage, NewRecipient, RecipientKind};
use crate::rendering::{ContentProgram, Renderer};

/// The rows of a bulk cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored bulk {bulk} cannot be read: {reason}")]
pub(super) struct Unreadable {
    bulk: BulkId,
    reason: String,
}

/// The data that all messages of a bulk share.
#[derive(Debug)]
pub(super) struct Shared {
    pub bulk: BulkId,
    pub tenant: TenantId,
    pub state: BulkState,
    /// The API key that the bulk was sent with.
    pub key: Option<KeyId>,
    content_id: Uuid,
    stream: String,
    scheduled_at: Option<DateTime<Utc>>,
    template: Option<(TemplateVersion, Arc<ContentProgram>)>,
    message: SharedMessage,
    from: Option<Mailbox>,
    reply_to: Option<Vec<Mailbox>>,
    /// The size of the text and the HTML in the content, in bytes; zero with a template.
    size: u64,
    headers: Vec<Header>,
    attachments: Vec<Attachment>,
}

impl Shared {
    /// Reads a bulk and its content.
    pub(super) async fn read(
        bulk: &BulkRow,
        content: Option<ContentRow>,
        renderer: &Renderer,
    ) -> Result<Self, Unreadable> {
        let id = BulkId(bulk.id);
        let unreadable = |reason: String| Unreadable { bulk: id, reason };
        let content = content.ok_or_else(|| unreadable("its content is missing".into()))?;
        let message = SharedMessage::deserialize(&bulk.message).map_err(|error| unreadable(error.to_string()))?;
        let mailbox = |stored: &StoredMailbox| {
            stored.clone().into_mailbox().ok_or_else(|| unreadable(format!("the address {}", stored.email)))
        };
        let from = message.from.as_ref().map(mailbox).transpose()?;
        let reply_to = message.reply_to.as_ref().map(|list| list.iter().map(mailbox).collect()).transpose()?;
        let headers: Vec<Header> =
            serde_json::from_value(content.headers).map_err(|error| unreadable(error.to_string()))?;
        let attachments = serde_json::from_value(content.attachments).map_err(|error| unreadable(error.to_string()))?;
        let version = bulk.template_id.zip(bulk.template_version);
        let template = match version.zip(content.template) {
            Some(((template, version), stored)) => {
                let which = TemplateVersion { template: TemplateId(template), version };
                Some((which, renderer.program(bulk.content_id, &stored).await.map_err(unreadable)?))
            }
            None => None,
        };
        Ok(Self {
            bulk: id,
            tenant: TenantId(bulk.tenant_id),
            state: bulk.state.parse().map_err(|()| unreadable(format!("the state {}", bulk.state)))?,
            key: bulk.key_id.map(KeyId),
            content_id: bulk.content_id,
            stream: bulk.stream.clone(),
            scheduled_at: bulk.scheduled_at,
            template,
            from,
            reply_to,
            message,
            size: [&content.text, &content.html].into_iter().flatten().map(String::len).sum::<usize>() as u64,
            headers,
            attachments,
        })
    }

    /// Creates the messages of these recipients, accepted `now`.
    pub(super) async fn messages(
        &self,
        mut rows: Vec<WaitingRow>,
        now: DateTime<Utc>,
    ) -> Result<Vec<NewMessage>, Unreadable> {
        let Some((which, program)) = &self.template else {
            let from = self.from.clone().ok_or_else(|| self.unreadable("it has no sender".into()))?;
            let reply_to = self.reply_to.clone().unwrap_or_default();
            let lines = Lines { from, reply_to, subject: self.message.subject.clone().unwrap_or_default() };
            return rows.into_iter().map(|row| self.message(row, lines.clone(), None, now)).collect();
        };
        let own: Vec<Map<String, Value>> = rows.iter_mut().map(|row| object(row.variables.take())).collect();
        let rendered = program.lines(own.clone()).await.map_err(|error| self.unreadable(error))?;
        let message = |((row, own), rendered)| {
            let lines = self.lines(RenderedTemplate { which: *which, parts: rendered, warnings: Vec::new() })?;
            self.message(row, lines, Some(Value::Object(own)), now)
        };
        rows.into_iter().zip(own).zip(rendered).map(message).collect()
    }

    fn message(
        &self,
        row: WaitingRow,
        lines: Lines,
        variables: Option<Value>,
        now: DateTime<Utc>,
    ) -> Result<NewMessage, Unreadable> {
        let address = row.address.parse().map_err(|error| self.unreadable(format!("{}: {error}", row.address)))?;
        let mailbox = Mailbox { address, name: row.name };
        let recipient = NewRecipient { id: RecipientId::new(now), kind: RecipientKind::To, mailbox };
        let mut metadata = self.message.metadata.clone();
        metadata.extend(object(row.metadata));
        let attachment =
            |description: &Attachment| NewAttachment { description: description.clone(), data: Vec::new() };
        let Lines { from, reply_to, subject } = lines;
        Ok(NewMessage {
            id: MessageId::new(now),
            created_at: now,
            from,
            recipients: vec![recipient],
            reply_to,
            subject,
            content: Content { text: None, html: None, headers: self.headers.clone() },
            attachments: self.attachments.iter().map(attachment).collect(),
            tags: self.message.tags.clone(),
            metadata,
            stream: self.stream.clone(),
            scheduled_at: self.scheduled_at.filter(|at| *at > now),
            expires_at: self.message.expires_at,
            on_uncertain: self.message.on_uncertain(),
            ignore_suppression: self.message.ignore_suppression,
            message_id: None,
            in_reply_to: None,
            template: self.template.as_ref().map(|(which, _)| *which),
            warnings: Vec::new(),
            relay: None,
            bulk: Some(Box::new(BulkMember {
                bulk: self.bulk,
                content: self.content_id,
                variables,
                stored_size: self.size + u64::from(row.size.unsigned_abs()),
            })),
        })
    }

    /// Returns the header fields of a message, which were checked when the bulk was accepted.
    fn lines(&self, rendered: RenderedTemplate) -> Result<Lines, Unreadable> {
        let (mut rendered, mut faults, at) =
            (render::Content::Rendered(Box::new(rendered)), Faults::default(), Pointer::Root);
        let from = self.from.clone().or_else(|| rendered.sender(&at, &mut faults));
        let reply_to = self.reply_to.clone().unwrap_or_else(|| rendered.reply_to(&at, &mut faults));
        let subject = self.message.subject.clone().or_else(|| rendered.subject(&at, &mut faults));
        match (from, subject, faults.into_vec().into_iter().next()) {
            (Some(from), Some(subject), None) => Ok(Lines { from, reply_to, subject }),
            (.., fault) => Err(self.unreadable(fault.map_or_else(|| "it has no sender".into(), |fault| fault.message))),
        }
    }

    fn unreadable(&self, reason: String) -> Unreadable {
        Unreadable { bulk: self.bulk, reason }
    }
}

/// The header fields that a template may render.
#[derive(Debug, Clone)]
struct Lines {
    from: Mailbox,
    reply_to: Vec<Mailbox>,
    subject: String,
}

/// Returns the entries of a stored object.
fn object(stored: Option<Value>) -> Map<String, Value> {
    match stored {
        Some(Value::Object(entries)) => entries,
        _ => Map::new(),
    }
}
