//! Inserts accepted messages: the contents, messages, recipients and queue rows of a group of requests at once. The API
//! responds with 202 after the transaction ([`crate::db::group_commit`]) has committed.

mod rows;

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::idempotency::{self, KeyUse};
use super::message_ids;
use crate::db::events::NewEvent;
use crate::db::lanes::NamedLane;
use crate::db::queue::ready_at::DueRow;
use crate::db::suppressions::{self, Addressed};
use crate::domain::id::{KeyId, RecipientId, RecipientKey, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::outcome::Outcome;
use crate::domain::suppression::AddressKey;
use rows::insert;

/// A message to insert.
#[derive(Debug)]
pub struct MessageInsert {
    /// The tenant.
    pub tenant: TenantId,
    /// The message; its attachments are already stored.
    pub message: NewMessage,
    /// The lane of each recipient, in the order of recipients.
    pub lanes: Vec<NamedLane>,
    /// The idempotency key, if the request has one.
    pub idempotency: Option<IdempotencyKey>,
    /// The worker that leases its recipients on insert, without a claim (direct handoff), if their lanes allow it.
    pub direct_consumer: Option<Uuid>,
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

impl MessageInsert {
    /// Returns the time from which the first attempt may start.
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
    /// Returns the events to append: accepted messages and suppressed recipients.
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
    let results = claim_keys(connection, group, now).await?;
    let is_new = |result: &Committed| matches!(result, Committed::New { .. });
    let new = group.iter().zip(&results).filter(|(_, result)| is_new(result)).map(|(insert, _)| insert).collect();
    let mut stored = Inserted { results, new, suppressed: Suppressed::new(), waiting: Vec::new() };
    if stored.new.is_empty() {
        return Ok(stored);
    }
    stored.suppressed = suppressed(connection, &stored.new).await?;
    let marked = insert(connection, &stored.new, &stored.suppressed, now).await?;
    message_ids::insert(connection, &stored.new).await?;
    for (insert, result) in group.iter().zip(&mut stored.results) {
        if let Committed::New { suppressed, leased, unsubscribe } = result {
            *unsubscribe = marked.contains(&insert.message.id.0);
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

async fn claim_keys(
    connection: &mut PgConnection,
    group: &[MessageInsert],
    now: DateTime<Utc>,
) -> Result<Vec<Committed>, sqlx::Error> {
    let new = Committed::New { suppressed: Vec::new(), leased: Vec::new(), unsubscribe: false };
    let mut results = vec![new; group.len()];
    let mut keyed: Vec<KeyedInsert<'_>> = group
        .iter()
        .enumerate()
        .filter_map(|(n, insert)| insert.idempotency.as_ref().map(|with| KeyedInsert::new(n, insert, with)))
        .collect();
    if keyed.is_empty() {
        return Ok(results);
    }
    let first = claim(connection, &keyed, now).await?;
    // If another API key used the value first, this API key's use is stored under the value that `scoped` returns.
    let is_other_api_key =
        |keyed: &KeyedInsert<'_>, used: &KeyUse| used.owner.is_some_and(|owner| owner != keyed.with.owner.0);
    let mut scoped_keys = Vec::new();
    for (keyed, used) in keyed.drain(..).zip(first) {
        match used {
            Some(used) if is_other_api_key(&keyed, &used) => {
                scoped_keys.push(KeyedInsert { key: keyed.scoped(), ..keyed });
            }
            used => results[keyed.n] = keyed.result(used),
        }
    }
    if !scoped_keys.is_empty() {
        let first = claim(connection, &scoped_keys, now).await?;
        for (keyed, used) in scoped_keys.iter().zip(first) {
            results[keyed.n] = keyed.result(used);
        }
    }
    Ok(results)
}

/// A message of the group with an idempotency key.
struct KeyedInsert<'a> {
    n: usize,
    insert: &'a MessageInsert,
    with: &'a IdempotencyKey,
    /// The value to store.
    key: Cow<'a, str>,
}

impl<'a> KeyedInsert<'a> {
    fn new(n: usize, insert: &'a MessageInsert, with: &'a IdempotencyKey) -> Self {
        Self { n, insert, with, key: Cow::Borrowed(&with.key) }
    }

    fn scoped(&self) -> Cow<'a, str> {
        Cow::Owned(idempotency::scoped(self.with.owner, &self.with.key))
    }

    fn result(&self, used: Option<KeyUse>) -> Committed {
        match used {
            Some(used) if used.message_id != self.insert.message.id.0 => Committed::KeyUsed(used),
            _ => Committed::New { suppressed: Vec::new(), leased: Vec::new(), unsubscribe: false },
        }
    }
}

/// Inserts idempotency keys that are not used yet. Returns the stored use of each key.
async fn claim(
    connection: &mut PgConnection,
    keyed: &[KeyedInsert<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Option<KeyUse>>, sqlx::Error> {
    let tenants: Vec<Uuid> = keyed.iter().map(|one| one.insert.tenant.0).collect();
    let keys: Vec<&str> = keyed.iter().map(|one| &*one.key).collect();
    let fingerprints: Vec<&[u8]> = keyed.iter().map(|one| &one.with.fingerprint[..]).collect();
    let digests: Vec<&[u8]> = keyed.iter().map(|one| &one.with.digest[..]).collect();
    let owners: Vec<Uuid> = keyed.iter().map(|one| one.with.owner.0).collect();
    let messages: Vec<Uuid> = keyed.iter().map(|one| one.insert.message.id.0).collect();
    // In a fixed order, so that two replicas that insert the same keys cannot deadlock.
    sqlx::query!(
        "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at, api_key_id, request_digest)
         SELECT tenant_id, key, fingerprint, ARRAY[message_id], $5, owner, digest
         FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[], $6::uuid[], $7::bytea[])
              AS u (tenant_id, key, fingerprint, message_id, owner, digest)
         ORDER BY tenant_id, key ON CONFLICT DO NOTHING",
        &tenants,
        &keys as _,
        &fingerprints as _,
        &messages,
        now,
        &owners,
        &digests as _
    )
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query!(
        r#"SELECT u.n AS "n!", k.message_ids[1] AS "message_id!", k.api_key_id, k.fingerprint, k.request_digest
           FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS u (tenant_id, key, n)
           JOIN idempotency_keys k ON k.tenant_id = ANY (ARRAY[u.tenant_id]) AND k.key = u.key"#,
        &tenants,
        &keys as _
    )
    .fetch_all(connection)
    .await?;
    let mut found = vec![None; keyed.len()];
    for row in rows {
        let Some(slot) = usize::try_from(row.n - 1).ok().and_then(|index| found.get_mut(index)) else { continue };
        *slot = Some(KeyUse {
            message_id: row.message_id,
            owner: row.api_key_id,
            fingerprint: row.fingerprint,
            digest: row.request_digest,
        });
    }
    Ok(found)
}

/// Suppressed recipients with their outcomes.
type Suppressed = HashMap<RecipientId, Outcome>;

/// Returns the recipients of the group whose address is suppressed at their due time. Suppressions that are added later
/// are checked after a claim.
async fn suppressed(connection: &mut PgConnection, group: &[&MessageInsert]) -> Result<Suppressed, sqlx::Error> {
    let (ids, addressed): (Vec<RecipientId>, Vec<Addressed<'_>>) = group
        .iter()
        .filter(|insert| !insert.message.ignore_suppression)
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

/// Returns the events of one message: accepted, and its suppressed recipients.
fn events_of<'a>(insert: &'a MessageInsert, suppressed: &'a Suppressed) -> impl Iterator<Item = NewEvent<'a>> {
    let (tenant, message, due_at) = (insert.tenant, insert.message.id, insert.due_at());
    let scheduled = (due_at > insert.message.created_at).then_some(due_at);
    let ended = insert.message.recipients.iter().filter_map(move |recipient| {
        let key = RecipientKey { tenant, message, recipient: recipient.id };
        Some(NewEvent::suppressed(key, suppressed.get(&recipient.id)?))
    });
    std::iter::once(NewEvent::accepted(tenant, message, scheduled)).chain(ended)
}
