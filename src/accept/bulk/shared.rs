//! What the messages of a bulk have in common, and the message of each recipient.

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
use crate::domain::fault::Faults;
use crate::domain::id::{BulkId, MessageId, RecipientId, TemplateId, TenantId};
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

/// What the messages of a bulk have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub bulk: BulkId,
    pub tenant: TenantId,
    pub state: BulkState,
    content_id: Uuid,
    stream: String,
    scheduled_at: Option<DateTime<Utc>>,
    template: Option<(TemplateVersion, Arc<ContentProgram>)>,
    message: SharedMessage,
    from: Option<Mailbox>,
    reply_to: Option<Vec<Mailbox>>,
    /// The size of the text and the HTML, in bytes; zero with a template. The messages have no copies of them.
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

    /// Creates the message of a recipient, accepted `now`.
    pub(super) async fn message(&self, row: WaitingRow, now: DateTime<Utc>) -> Result<NewMessage, Unreadable> {
        let address = row.address.parse().map_err(|error| self.unreadable(format!("{}: {error}", row.address)))?;
        let mailbox = Mailbox { address, name: row.name };
        let recipient = NewRecipient { id: RecipientId::new(now), kind: RecipientKind::To, mailbox };
        let own = row.variables.unwrap_or_else(|| Value::Object(Map::new()));
        let Parts { from, reply_to, subject, text, html } = self.parts(&own).await?;
        let mut metadata = self.message.metadata.clone();
        if let Some(Value::Object(own)) = row.metadata {
            metadata.extend(own);
        }
        let attachment =
            |description: &Attachment| NewAttachment { description: description.clone(), data: Vec::new() };
        let variables = self.template.is_some().then_some(own);
        Ok(NewMessage {
            id: MessageId::new(now),
            created_at: now,
            from,
            recipients: vec![recipient],
            reply_to,
            subject,
            content: Content { text, html, headers: self.headers.clone() },
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
            bulk: Some(Box::new(BulkMember {
                bulk: self.bulk,
                content: self.content_id,
                variables,
                stored_size: self.size,
                is_canceled: self.state == BulkState::Canceled,
            })),
        })
    }

    /// Returns the parts of a message that a template may render. They were checked when the bulk was accepted.
    async fn parts(&self, own: &Value) -> Result<Parts, Unreadable> {
        let (from, subject) = (self.from.clone(), self.message.subject.clone());
        let reply_to = self.reply_to.clone();
        let Some((which, program)) = &self.template else {
            let from = from.ok_or_else(|| self.unreadable("it has no sender".into()))?;
            let (reply_to, subject) = (reply_to.unwrap_or_default(), subject.unwrap_or_default());
            return Ok(Parts { from, reply_to, subject, text: None, html: None });
        };
        let rendered = program.render(own.as_object().cloned().unwrap_or_default()).await;
        let mut rendered = RenderedTemplate {
            which: *which,
            parts: rendered.map_err(|error| self.unreadable(error))?,
            warnings: Vec::new(),
        };
        let (text, html) = (rendered.parts.text.take(), rendered.parts.html.take());
        let (mut rendered, mut faults, at) =
            (render::Content::Rendered(Box::new(rendered)), Faults::default(), Pointer::Root);
        let from = from.or_else(|| rendered.sender(&at, &mut faults));
        let reply_to = reply_to.unwrap_or_else(|| rendered.reply_to(&at, &mut faults));
        let subject = subject.or_else(|| rendered.subject(&at, &mut faults));
        match (from, subject, faults.into_vec().into_iter().next()) {
            (Some(from), Some(subject), None) => Ok(Parts { from, reply_to, subject, text, html }),
            (.., fault) => Err(self.unreadable(fault.map_or_else(|| "it has no sender".into(), |fault| fault.message))),
        }
    }

    fn unreadable(&self, reason: String) -> Unreadable {
        Unreadable { bulk: self.bulk, reason }
    }
}

/// The parts of a message that a template may render.
struct Parts {
    from: Mailbox,
    reply_to: Vec<Mailbox>,
    subject: String,
    text: Option<String>,
    html: Option<String>,
}
