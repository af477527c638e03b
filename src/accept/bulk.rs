//! Commits bulks.
//!
//! Guarantees:
//! - A bulk is committed with all of its recipients in one transaction. It takes no event number and adds nothing to the
//!   queue, so no other transaction waits for it.
//! - Each recipient becomes exactly one message afterwards ([`expander`]).

pub mod expander;
mod shared;

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::request::batch::{MessageKey, Refused};
use super::request::bulk::{Bulk, BulkMessage, BulkRecipient};
use super::request::message::render::PinnedTemplate;
use super::reserved_keys::KeyGuard;
use super::{AcceptError, Acceptor, Resolved};
use crate::db::messages::bulks::insert::{BulkCommitted, BulkContent, BulkInsert, BulkRecipientInsert, insert};
use crate::db::messages::idempotency::{self, CallUse};
use crate::db::messages::insert::IdempotencyKey;
use crate::db::templates::versions;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::{BulkId, KeyId, MessageId, TenantId};
use crate::domain::message::bulk::{SharedMessage, StoredMailbox};

/// A call whose recipients are valid.
#[derive(Debug)]
pub struct BulkCall {
    /// The tenant.
    pub tenant: TenantId,
    /// The API key of the call.
    pub owner: KeyId,
    /// The idempotency key of the whole call.
    pub key: Option<IdempotencyKey>,
    /// When the request arrived.
    pub now: DateTime<Utc>,
    /// The bulk.
    pub bulk: Bulk,
}

/// A call whose idempotency keys have been looked up. Until this value is dropped, no other request of this process can
/// use the key of the call.
#[derive(Debug)]
pub struct ReadyBulk {
    call: BulkCall,
    /// Number of recipients whose idempotency key was used by an earlier message.
    replayed: usize,
    _guard: Option<KeyGuard>,
}

impl ReadyBulk {
    /// Returns the number of recipients that become messages.
    pub fn new_recipients(&self) -> usize {
        self.call.bulk.recipients.len()
    }
}

/// The result of a call.
#[derive(Debug)]
pub enum BulkAccepted {
    /// The bulk was committed.
    New {
        /// Its id.
        id: BulkId,
        /// Number of recipients that become messages.
        accepted: usize,
        /// Number of recipients whose idempotency key was used by an earlier message.
        replayed: usize,
        /// The refused recipients, `[{"index", "errors"}]`, in the order of the request.
        refused: Value,
    },
    /// The same call was accepted earlier, as this bulk.
    Replayed(BulkId),
}

impl Acceptor {
    /// Looks up the idempotency keys of a bulk.
    pub async fn resolve_bulk(&self, mut call: BulkCall) -> Result<Resolved<ReadyBulk, BulkAccepted>, AcceptError> {
        let guard = match &call.key {
            Some(key) => {
                let guard = self.reserved_keys.reserve(call.owner, &key.key).ok_or(AcceptError::KeyInFlight)?;
                // Look the key up under the guard: a request with the same key may have ended meanwhile.
                if let Some(first) = self.first_call(call.tenant, call.owner, &key.key).await? {
                    return replayed(&first, key).map(Resolved::Done);
                }
                Some(guard)
            }
            None => None,
        };
        let replayed = self.drop_used(&mut call).await?;
        Ok(Resolved::Ready(ReadyBulk { call, replayed, _guard: guard }))
    }

    /// Commits a bulk. Once this returns [`BulkAccepted::New`], the service is responsible for its messages.
    pub async fn commit_bulk(&self, ready: ReadyBulk) -> Result<BulkAccepted, AcceptError> {
        let ReadyBulk { mut call, replayed, _guard } = ready;
        let content = self.store_content(&mut call).await?;
        let (tenant, owner, key) = (call.tenant, call.owner, call.key.clone());
        let insertable = insertable(call, content, replayed);
        match insert(&self.db, &insertable).await? {
            BulkCommitted::Inserted => {}
            BulkCommitted::KeyUsed => return self.bulk_key_used(tenant, owner, key).await,
        }
        self.wake_expander();
        let BulkInsert { id, recipients, refused, .. } = insertable;
        Ok(BulkAccepted::New { id, accepted: recipients.len(), replayed, refused })
    }

    /// Removes the recipients whose idempotency key was used before. If it was used for the same message, the recipient
    /// counts as replayed; otherwise the recipient is refused. Returns the number of replayed recipients.
    async fn drop_used(&self, call: &mut BulkCall) -> Result<usize, AcceptError> {
        let bulk = &mut call.bulk;
        let keys: Vec<&str> = bulk.recipients.iter().filter_map(|one| Some(&*one.key.as_ref()?.value)).collect();
        if keys.is_empty() {
            return Ok(0);
        }
        let used = idempotency::find_all(&self.db, call.tenant, call.owner, &keys).await?;
        // The digest of the first use of each key: stored, or earlier in this call.
        let mut first: HashMap<String, Vec<u8>> =
            used.into_iter().filter_map(|(n, used)| Some(((*keys.get(n)?).to_owned(), used.fingerprint))).collect();
        let (mut replayed, own) = (0, call.key.as_ref().map(|key| key.key.clone()));
        for recipient in std::mem::take(&mut bulk.recipients) {
            let Some(MessageKey { value, digest }) = &recipient.key else {
                bulk.recipients.push(recipient);
                continue;
            };
            if own.as_ref() == Some(value) {
                let why = "is the `Idempotency-Key` of the request; use another key";
                bulk.refused.push(refusal(recipient.index, Code::DuplicateValue, why));
                continue;
            }
            match first.entry(value.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(digest.to_vec());
                    bulk.recipients.push(recipient);
                }
                Entry::Occupied(entry) if *entry.get() == digest => replayed += 1,
                Entry::Occupied(_) => {
                    let why = "was used with a different message; use another key for another message";
                    bulk.refused.push(refusal(recipient.index, Code::IdempotencyKeyReused, why));
                }
            }
        }
        bulk.refused.sort_by_key(|refused| refused.index);
        Ok(replayed)
    }

    /// Stores the attachments, and returns the content of the bulk's messages.
    async fn store_content(&self, call: &mut BulkCall) -> Result<BulkContent, AcceptError> {
        let (tenant, message) = (call.tenant, &mut call.bulk.message);
        let id = MessageId::new(call.now);
        self.blobs.store(tenant, id, &mut message.attachments, false).await?;
        let template = match &message.template {
            None => None,
            Some(PinnedTemplate { which, variables, .. }) => {
                let compiled = versions::compiled(&self.db, tenant, *which).await?;
                // The template may have been deleted after it was loaded.
                let compiled = compiled.ok_or(AcceptError::TemplateDeleted)?;
                Some(json!({"compiled": compiled, "variables": variables}))
            }
        };
        let content = std::mem::take(&mut message.content);
        Ok(BulkContent {
            id: id.0,
            text: content.text,
            html: content.html,
            headers: content.headers,
            attachments: std::mem::take(&mut message.attachments).into_iter().map(|file| file.description).collect(),
            template,
        })
    }

    /// Returns the result of a call that was not committed because a concurrent request used one of its idempotency keys.
    async fn bulk_key_used(
        &self,
        tenant: TenantId,
        owner: KeyId,
        key: Option<IdempotencyKey>,
    ) -> Result<BulkAccepted, AcceptError> {
        if let Some(key) = key
            && let Some(first) = self.first_call(tenant, owner, &key.key).await?
        {
            return replayed(&first, &key);
        }
        Err(AcceptError::KeyInFlight)
    }
}

fn refusal(index: usize, code: Code, why: &str) -> Refused {
    let pointer = format!("/recipients/{index}/idempotency_key");
    Refused { index, errors: vec![Fault { pointer, code: code.as_str(), message: why.into() }] }
}

/// Returns the bulk of the first call with the key, or an error if this call differs from the first.
fn replayed(first: &CallUse, requested: &IdempotencyKey) -> Result<BulkAccepted, AcceptError> {
    let is_same = first.is_same_request(&requested.fingerprint, &requested.digest);
    match first.bulk_id {
        Some(bulk) if is_same => Ok(BulkAccepted::Replayed(BulkId(bulk))),
        _ => Err(AcceptError::KeyReused),
    }
}

/// Returns the rows of a bulk.
fn insertable(call: BulkCall, content: BulkContent, replayed: usize) -> BulkInsert {
    let BulkCall { tenant, owner, key, now, bulk } = call;
    let Bulk { message, recipients, refused, from_domain, .. } = bulk;
    let recipient = |one: BulkRecipient| BulkRecipientInsert {
        id: MessageId::new(now).0,
        position: i32::try_from(one.index).unwrap_or(i32::MAX),
        address: one.mailbox.address.to_string(),
        name: one.mailbox.name,
        variables: one.variables,
        size: i32::try_from(one.size).unwrap_or(i32::MAX),
        metadata: one.metadata,
        key: one.key.map(|key| key.into_idempotency_key(owner)),
    };
    let recipients = recipients.into_iter().map(recipient).collect();
    BulkInsert {
        tenant,
        id: BulkId::new(now),
        owner,
        created_at: now,
        content,
        stream: message.stream.clone(),
        from_domain: from_domain.unwrap_or_default(),
        scheduled_at: message.scheduled_at,
        template: message.template.as_ref().map(|template| template.which),
        message: json!(shared(message)),
        recipients,
        replayed: i32::try_from(replayed).unwrap_or(i32::MAX),
        refused: json!(refused),
        key,
    }
}

fn shared(message: BulkMessage) -> SharedMessage {
    SharedMessage {
        from: message.from.as_ref().map(StoredMailbox::from),
        reply_to: message.reply_to.map(|list| list.iter().map(StoredMailbox::from).collect()),
        subject: message.subject,
        tags: message.tags,
        metadata: message.metadata,
        expires_at: message.expires_at,
        on_uncertain: message.on_uncertain.as_str().to_owned(),
        ignore_suppression: message.ignore_suppression,
    }
}
