//! Loads stored messages: all data that a message's MIME is built from, for sending and for `GET …/raw`.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::blobs::objects;
use super::{AddresseeRow, ContentRow, DeliveryRow, OwnedIds, columns};
use crate::db::{Db, DbError, messages};
use crate::domain::address::{Address, Mailbox};
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::message::unsubscribe::{Links, Ticket};
use crate::domain::message::{Attachment, Content, Draft, Header, NewMessage, NewRecipient};
use crate::object_storage::ObjectError;

/// Messages with more bytes than this are loaded without their content, which is fetched when memory is available.
const INLINE_LIMIT: i64 = 256 << 10;

/// Why the MIME of a stored message cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum StoredMessageError {
    /// A column contains a value that this version cannot read.
    #[error("the stored message cannot be read: {0}")]
    Unreadable(String),
    /// The message's bodies cannot be rendered from the template of its bulk.
    #[error("the template of the message's bulk cannot be rendered: {0}")]
    NotRendered(String),
    /// The message's content was deleted, because of its age or by request.
    #[error("the message's content was deleted")]
    ContentDeleted,
    /// The bytes of an attachment are missing.
    #[error("the attachment {0} is not in the database")]
    MissingBlob(String),
    /// The message cannot be signed with the keys of the sender's domain.
    #[error("messages from domain {0} cannot be signed: {1}")]
    NotSigned(String, String),
    /// The message must carry an unsubscribe link, but none can be created.
    #[error(
        "the stream's messages carry an unsubscribe link, which needs public_url (POSTRIDER_PUBLIC_URL) and secret_key \
         (POSTRIDER_SECRET_KEY) in this process"
    )]
    NoUnsubscribeLinks,
    /// The server of the inbound route to which the message is to be passed on is unknown.
    #[error("{0}")]
    NoRelay(String),
    /// An attachment cannot be read from the object store.
    #[error(transparent)]
    Objects(#[from] ObjectError),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Renders the bodies of messages of bulks.
pub trait RenderBodies: Sync {
    /// Renders the bodies of a message from its variables and `template`, which is `contents.template` of the content
    /// with this id.
    fn render(
        &self,
        content: Uuid,
        template: &Value,
        variables: &Value,
    ) -> impl Future<Output = Result<Bodies, String>> + Send;
}

/// The bodies of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bodies {
    /// Plain text.
    pub text: Option<String>,
    /// HTML.
    pub html: Option<String>,
}

/// A message with its recipients.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// The message.
    pub row: DeliveryRow,
    /// Recipients in the order of the request.
    pub addressees: Vec<AddresseeRow>,
    /// Content, if it is in memory.
    content: Option<Arc<ContentRow>>,
    /// Attachment bytes in memory, by SHA-256.
    files: HashMap<String, Vec<u8>>,
}

/// Returns whether the content of a message of `size` bytes stays in memory while the message waits to be sent.
pub fn fits_inline(size: u64) -> bool {
    size <= INLINE_LIMIT.unsigned_abs()
}

/// Loads messages. The content of a small message is loaded too, if `keeps_content` returns true for it.
/// Missing messages are left out.
pub async fn load(
    db: &Db,
    ids: &OwnedIds,
    mut keeps_content: impl FnMut(&DeliveryRow) -> bool + Send,
) -> Result<Vec<StoredMessage>, DbError> {
    let (rows, addressees) = tokio::try_join!(messages::for_delivery(db, ids), messages::addressees(db, ids))?;
    let kept: HashMap<(Uuid, Uuid), (TenantId, Uuid)> = rows
        .iter()
        .filter(|row| row.size <= INLINE_LIMIT && row.content_deleted_at.is_none() && keeps_content(row))
        .map(|row| ((row.tenant_id, row.id), (TenantId(row.tenant_id), row.content_id)))
        .collect();
    let content_ids: BTreeSet<(TenantId, Uuid)> = kept.values().copied().collect();
    let contents = messages::contents(db, &content_ids.into_iter().collect()).await?;
    let contents: HashMap<(TenantId, Uuid), Arc<ContentRow>> =
        contents.into_iter().map(|content| ((TenantId(content.tenant_id), content.id), Arc::new(content))).collect();
    let mut addressed = HashMap::<Uuid, Vec<AddresseeRow>>::new();
    for addressee in addressees {
        addressed.entry(addressee.message_id).or_default().push(addressee);
    }
    let stored = rows.into_iter().map(|row| StoredMessage {
        addressees: addressed.remove(&row.id).unwrap_or_default(),
        // Shared, because several messages may refer to one content.
        content: kept.get(&(row.tenant_id, row.id)).and_then(|content| contents.get(content)).cloned(),
        files: HashMap::new(),
        row,
    });
    Ok(stored.collect())
}

impl StoredMessage {
    /// Creates the stored form of a message that was just inserted, equal to the result of [`load`]. `unsubscribe`
    /// says whether the message carries an unsubscribe link.
    pub fn from_new(tenant: TenantId, mut message: NewMessage, unsubscribe: bool) -> Self {
        let in_memory = message.attachments.iter_mut().filter(|attachment| !attachment.data.is_empty());
        let files = in_memory.map(|a| (a.description.sha256.clone(), std::mem::take(&mut a.data))).collect();
        let (id, size) = (message.id.0, i64::try_from(message.size()).unwrap_or(i64::MAX));
        let (headers, attachments) = (columns::headers(&message.content.headers), columns::attachments_of(&message));
        let bulk = message.bulk;
        let Content { text, html, .. } = message.content;
        let content_id = bulk.as_ref().map_or(id, |member| member.content);
        // Messages of a bulk have no bodies of their own.
        let is_in_memory = size <= INLINE_LIMIT && bulk.is_none();
        let content =
            ContentRow { tenant_id: tenant.0, id: content_id, text, html, headers, attachments, template: None };
        let addressee = |recipient: NewRecipient| AddresseeRow {
            message_id: id,
            id: recipient.id.0,
            kind: recipient.kind.as_str().to_owned(),
            address: recipient.mailbox.address.to_string(),
            name: recipient.mailbox.name,
        };
        Self {
            row: DeliveryRow {
                tenant_id: tenant.0,
                id,
                content_id,
                created_at: message.created_at,
                stream: message.stream,
                from_address: message.from.address.to_string(),
                from_name: message.from.name,
                reply_to: columns::reply_to(&message.reply_to),
                subject: message.subject,
                scheduled_at: message.scheduled_at,
                expires_at: message.expires_at,
                on_uncertain: message.on_uncertain.as_str().to_owned(),
                ignore_suppression: message.ignore_suppression,
                unsubscribe,
                size,
                variables: bulk.and_then(|member| member.variables),
                content_deleted_at: None,
                inbound_route_id: message.relay.and_then(|relay| Some(relay.route?.0)),
            },
            addressees: message.recipients.into_iter().map(addressee).collect(),
            content: is_in_memory.then(|| Arc::new(content)),
            files,
        }
    }

    /// Returns whether the content is in memory. Otherwise [`draft`](Self::draft) reads it from the database.
    pub fn has_content(&self) -> bool {
        self.content.is_some()
    }

    /// Removes the content from memory.
    pub fn unload(&mut self) {
        self.content = None;
        self.files = HashMap::new();
    }

    /// Returns a recipient's address.
    pub fn address(&self, recipient: Uuid) -> Result<Address, StoredMessageError> {
        let row = self.addressees.iter().find(|row| row.id == recipient);
        parse(&row.ok_or_else(|| StoredMessageError::Unreadable("a recipient is missing".into()))?.address)
    }

    /// Returns all data that the MIME is built from, including attachments. Moves the content out, so that a message is
    /// not in memory twice while it is sent; a second call fetches it again. `links` creates the unsubscribe link, if
    /// the message carries one. `renderer` renders the bodies of a message of a bulk.
    pub async fn draft(
        &mut self,
        db: &Db,
        links: Option<&Links>,
        renderer: &impl RenderBodies,
    ) -> Result<Draft, StoredMessageError> {
        let (content, files) = (self.take_content(db).await?, std::mem::take(&mut self.files));
        let Self { row, addressees, .. } = &*self;
        let tenant = TenantId(row.tenant_id);
        let mut headers = read::<Vec<Header>>(&content.headers)?;
        if row.unsubscribe {
            headers.extend(links.ok_or(StoredMessageError::NoUnsubscribeLinks)?.headers(&self.ticket()?));
        }
        let named = |kind: &str| -> Result<Vec<Mailbox>, StoredMessageError> {
            let named = addressees.iter().filter(|row| row.kind == kind);
            named.map(|row| mailbox(&row.address, row.name.clone())).collect()
        };
        Ok(Draft {
            id: MessageId(row.id),
            date: row.scheduled_at.map_or(row.created_at, |at| at.max(row.created_at)),
            from: mailbox(&row.from_address, row.from_name.clone())?,
            to: named("to")?,
            cc: named("cc")?,
            reply_to: reply_to(&row.reply_to)?,
            subject: row.subject.clone(),
            attachments: attachments(db, tenant, read(&content.attachments)?, files).await?,
            content: bodies(row, content, headers, renderer).await?,
        })
    }

    /// Returns the bodies, without reading the attachments. Moves the content out, as [`draft`](Self::draft) does.
    pub async fn bodies(&mut self, db: &Db, renderer: &impl RenderBodies) -> Result<Bodies, StoredMessageError> {
        let content = self.take_content(db).await?;
        let Content { text, html, .. } = bodies(&self.row, content, Vec::new(), renderer).await?;
        Ok(Bodies { text, html })
    }

    /// Moves the content out; reads it if it is not in memory.
    async fn take_content(&mut self, db: &Db) -> Result<Arc<ContentRow>, StoredMessageError> {
        if let Some(content) = self.content.take() {
            return Ok(content);
        }
        if self.row.content_deleted_at.is_some() {
            return Err(StoredMessageError::ContentDeleted);
        }
        let content = messages::contents(db, &(TenantId(self.row.tenant_id), self.row.content_id).into()).await?.pop();
        Ok(Arc::new(content.ok_or(StoredMessageError::ContentDeleted)?))
    }

    /// Returns the unsubscribe ticket of its only recipient.
    fn ticket(&self) -> Result<Ticket, StoredMessageError> {
        let Self { row, addressees, .. } = self;
        let to = addressees.first().ok_or_else(|| StoredMessageError::Unreadable("its recipient is missing".into()))?;
        Ok(Ticket {
            tenant: TenantId(row.tenant_id),
            message: MessageId(row.id),
            recipient: RecipientId(to.id),
            stream: row.stream.clone(),
            address: parse(&to.address)?,
        })
    }
}

/// Returns the bodies, rendered if the message has variables, with these headers.
async fn bodies(
    row: &DeliveryRow,
    content: Arc<ContentRow>,
    headers: Vec<Header>,
    renderer: &impl RenderBodies,
) -> Result<Content, StoredMessageError> {
    if let (Some(template), Some(variables)) = (&content.template, &row.variables) {
        let rendered = renderer.render(content.id, template, variables).await;
        let Bodies { text, html } = rendered.map_err(StoredMessageError::NotRendered)?;
        return Ok(Content { text, html, headers });
    }
    Ok(match Arc::try_unwrap(content) {
        Ok(ContentRow { text, html, .. }) => Content { text, html, headers },
        Err(shared) => Content { text: shared.text.clone(), html: shared.html.clone(), headers },
    })
}

async fn attachments(
    db: &Db,
    tenant: TenantId,
    descriptions: Vec<Attachment>,
    mut in_memory: HashMap<String, Vec<u8>>,
) -> Result<Vec<(Attachment, Vec<u8>)>, StoredMessageError> {
    let mut attachments = Vec::with_capacity(descriptions.len());
    for description in descriptions {
        let data = match in_memory.remove(&description.sha256) {
            Some(data) => data,
            None => objects::load(db, tenant, &description.sha256, description.size).await?,
        };
        attachments.push((description, data));
    }
    Ok(attachments)
}

fn read<'a, T: Deserialize<'a>>(value: &'a Value) -> Result<T, StoredMessageError> {
    T::deserialize(value).map_err(|error| StoredMessageError::Unreadable(error.to_string()))
}

fn parse(address: &str) -> Result<Address, StoredMessageError> {
    address.parse().map_err(|error| StoredMessageError::Unreadable(format!("the address {address}: {error}")))
}

fn mailbox(address: &str, name: Option<String>) -> Result<Mailbox, StoredMessageError> {
    Ok(Mailbox { address: parse(address)?, name })
}

fn reply_to(stored: &Value) -> Result<Vec<Mailbox>, StoredMessageError> {
    #[derive(Deserialize)]
    struct StoredMailbox {
        email: String,
        name: Option<String>,
    }
    read::<Vec<StoredMailbox>>(stored)?.into_iter().map(|one| mailbox(&one.email, one.name)).collect()
}
