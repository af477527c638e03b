//! Inserts accepted messages: the contents, messages, recipients and queue rows of a group of requests at once. The API
//! responds with 202 after the transaction ([`crate::db::group_commit`]) has committed.

pub mod batch;
pub(in crate::db) mod idempotency_keys;
mod rows;

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::idempotency::KeyUse;
use super::{blobs, message_ids};
use crate::db::events::NewEvent;
use crate::db::lanes::NamedLane;
use crate::db::queue::ready_at::DueRow;
use crate::db::suppressions::{self, Addressed};
use crate::domain::id::{KeyId, RecipientId, RecipientKey, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::outcome::Outcome;
use crate::domain::suppression::AddressKey;
use rows::insert;

/// Maximum number of messages that one statement inserts.
const MAX_STATEMENT_MESSAGES: usize = 256;
/// Bytes of text and HTML after which a statement inserts no further message.
const MAX_STATEMENT_BYTES: usize = 4 << 20;

/// A message to insert.
#[derive(Debug)]
pub struct MessageInsert {
    /// The tenant.
    pub tenant: TenantId,
    /// The message; its attachments are already stored.
    pub message: NewMessage,
    /// The lane of each recipient, in the order of recipients.
    pub lanes: Vec<NamedLane>,
    /// The API key of the request; `None` if an older version accepted it (as a bulk).
    pub key: Option<KeyId>,
    /// The idempotency key, if the request has one.
    pub idempotency: Option<IdempotencyKey>,
    /// The worker that leases its recipients on insert, without a claim (direct handoff), if their lanes allow it.
    pub direct_consumer: Option<Uuid>,
    /// Whether it was canceled before it was accepted: its recipients are inserted as canceled, and nothing is sent.
    pub is_canceled: bool,
}

/// The idempotency key of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// Value of the header.
    pub key: String,
    /// The API key of the request.
    pub owner: KeyId,
    /// SHA-256 of the request body.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the parsed request.
    pub digest: [u8; 32],
}

/// The result for one message of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The message was inserted.
    New {
        /// Suppressed recipients.
        suppressed: Vec<RecipientId>,
        /// Recipients leased to the direct consumer. The others wait for a claim.
        leased: Vec<RecipientId>,
        /// Whether the message carries an unsubscribe link.
        unsubscribe: bool,
    },
    /// The idempotency key was used before, by the request that created this message.
    KeyUsed(KeyUse),
}

impl Committed {
    /// Creates the result for a message that is about to be inserted.
    fn new() -> Self {
        Self::New { suppressed: Vec::new(), leased: Vec::new(), unsubscribe: false }
    }
}

impl MessageInsert {
    /// Returns the time from which the first attempt may start, unless the message is canceled.
    pub fn due_at(&self) -> DateTime<Utc> {
        self.message.scheduled_at.unwrap_or(self.message.created_at)
    }
}

/// Messages inserted by a transaction that has not yet updated `ready_at` and appended the events.
#[derive(Debug)]
pub(in crate::db) struct Inserted<'a> {
    /// The result for each message of the group.
    pub results: Vec<Committed>,
    new: Vec<&'a MessageInsert>,
    suppressed: Suppressed,
    /// Queued recipients that no worker has leased.
    pub waiting: Vec<DueRow>,
}

impl Inserted<'_> {
    /// Returns the events to append: accepted messages, and suppressed and canceled recipients.
    pub fn events(&self) -> impl Iterator<Item = NewEvent<'_>> {
        self.new.iter().flat_map(|insert| events_of(insert, &self.suppressed))
    }
}

/// Inserts the group, all or nothing. No two of its messages may have the same idempotency key and API key. The caller
/// must then lower the lanes' `ready_at` and append the events, in this order.
pub(in crate::db) async fn store<'a>(
    connection: &mut PgConnection,
    group: &'a [MessageInsert],
    now: DateTime<Utc>,
) -> Result<Inserted<'a>, sqlx::Error> {
    let results = idempotency_keys::claim_for_messages(connection, group, now).await?;
    insert_new(connection, &group.iter().collect::<Vec<_>>(), results, now).await
}

/// Inserts the messages of the group whose result is [`Committed::New`], and completes these results.
async fn insert_new<'a>(
    connection: &mut PgConnection,
    group: &[&'a MessageInsert],
    results: Vec<Committed>,
    now: DateTime<Utc>,
) -> Result<Inserted<'a>, sqlx::Error> {
    let is_new = |result: &Committed| matches!(result, Committed::New { .. });
    let new = group.iter().zip(&results).filter(|(_, result)| is_new(result)).map(|(insert, _)| *insert).collect();
    let mut stored = Inserted { results, new, suppressed: Suppressed::new(), waiting: Vec::new() };
    if stored.new.is_empty() {
        return Ok(stored);
    }
    stored.suppressed = suppressed(connection, &stored.new).await?;
    let mut marked = HashSet::new();
    for part in parts(&stored.new) {
        let more = insert(connection, part, &stored.suppressed, now).await?;
        if marked.is_empty() {
            marked = more;
        } else {
            marked.extend(more);
        }
    }
    message_ids::insert(connection, &stored.new).await?;
    blobs::check_references(connection, stored.new.iter().flat_map(|insert| own_attachments(insert))).await?;
    for (insert, result) in group.iter().zip(&mut stored.results) {
        if let Committed::New { suppressed, leased, unsubscribe } = result {
            *unsubscribe = marked.contains(&insert.message.id.0);
            if insert.is_canceled {
                continue;
            }
            for (recipient, lane) in insert.message.recipients.iter().zip(&insert.lanes) {
                if stored.suppressed.contains_key(&recipient.id) {
                    suppressed.push(recipient.id);
                } else if marked.contains(&recipient.id.0) {
                    leased.push(recipient.id);
                } else {
                    stored.waiting.push(DueRow { lane: lane.id, due_at: insert.due_at() });
                }
            }
        }
    }
    Ok(stored)
}

/// Returns the attachments of a message by tenant, content and digest; none if it is part of a bulk, which has the content.
fn own_attachments(insert: &MessageInsert) -> impl Iterator<Item = (TenantId, Uuid, &str)> {
    let own = insert.message.bulk.is_none().then_some(&insert.message.attachments);
    own.into_iter()
        .flatten()
        .map(move |attachment| (insert.tenant, insert.message.id.0, &*attachment.description.sha256))
}

/// Divides a group into parts, each of which is inserted by one statement: the rows of a statement are in memory
/// several times, in this process and in Postgres.
fn parts<'a, 'b>(mut group: &'b [&'a MessageInsert]) -> Vec<&'b [&'a MessageInsert]> {
    let mut parts = Vec::new();
    while !group.is_empty() {
        let mut bytes = 0;
        let is_last = |insert: &&MessageInsert| {
            bytes += insert.message.content.size();
            bytes >= MAX_STATEMENT_BYTES
        };
        let end =
            group.iter().take(MAX_STATEMENT_MESSAGES).position(is_last).map_or(MAX_STATEMENT_MESSAGES, |at| at + 1);
        let (part, rest) = group.split_at(end.min(group.len()));
        parts.push(part);
        group = rest;
    }
    parts
}

/// Suppressed recipients with their outcomes.
type Suppressed = HashMap<RecipientId, Outcome>;

/// Returns the recipients of the group whose address is suppressed at their due time. Suppressions that are added later
/// are checked after a claim.
async fn suppressed(connection: &mut PgConnection, group: &[&MessageInsert]) -> Result<Suppressed, sqlx::Error> {
    let (ids, addressed): (Vec<RecipientId>, Vec<Addressed<'_>>) = group
        .iter()
        .filter(|insert| !insert.message.ignore_suppression && !insert.is_canceled)
        .flat_map(|insert| insert.message.recipients.iter().map(move |recipient| (*insert, recipient)))
        .map(|(insert, recipient)| {
            let address = AddressKey::from(&recipient.mailbox.address);
            let (tenant, stream, at) = (insert.tenant, &*insert.message.stream, insert.due_at());
            (recipient.id, Addressed { tenant, address, stream, at })
        })
        .unzip();
    let found = suppressions::find(connection, &addressed).await?;
    Ok(found.into_iter().filter_map(|(index, entry)| Some((*ids.get(index)?, entry.outcome()))).collect())
}

/// Returns the events of one message: accepted, and its suppressed or canceled recipients.
fn events_of<'a>(insert: &'a MessageInsert, suppressed: &'a Suppressed) -> impl Iterator<Item = NewEvent<'a>> {
    let (tenant, message) = (insert.tenant, insert.message.id);
    let scheduled = insert.message.scheduled_at.filter(|at| *at > insert.message.created_at);
    let ended = insert.message.recipients.iter().filter_map(move |recipient| {
        let key = RecipientKey { tenant, message, recipient: recipient.id };
        if insert.is_canceled {
            return Some(NewEvent::canceled(key));
        }
        Some(NewEvent::suppressed(key, suppressed.get(&recipient.id)?))
    });
    std::iter::once(NewEvent::accepted(tenant, message, scheduled)).chain(ended)
}
