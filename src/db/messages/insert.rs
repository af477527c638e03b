//! Inserts accepted messages: contents, messages, recipients and queue rows of a group of requests at once. The
//! requests are answered with 202 after the transaction ([`crate::db::group_commit`]) has committed.

mod rows;

use std::borrow::Cow;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::idempotency::{self, KeyUse};
use crate::db::events::NewEvent;
use crate::db::lanes::NamedLane;
use crate::db::queue::ready_at::Lowered;
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
    /// The worker that would lease it at once, without a claim (direct handoff).
    pub taker: Option<Uuid>,
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
        /// Recipients leased to the direct consumer, as by a claim. The others are queued.
        taken: Vec<RecipientId>,
        /// Whether it carries an unsubscribe link.
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

/// Messages inserted by a transaction, and what the transaction has yet to write for them.
#[derive(Debug)]
pub(in crate::db) struct Inserted<'a> {
    /// The result for each message of the group.
    pub results: Vec<Committed>,
    fresh: Vec<&'a MessageInsert>,
    suppressed: Suppressed,
    /// Queued recipients that no worker has leased.
    pub waiting: Vec<Lowered>,
}

impl Inserted<'_> {
    /// Returns the events: accepted messages and suppressed recipients.
    pub fn events(&self) -> impl Iterator<Item = NewEvent<'_>> {
        self.fresh.iter().flat_map(|intake| events_of(intake, &self.suppressed))
    }
}

/// Inserts the group, all or nothing. No two messages may share an idempotency key of one API key. The caller must then
/// lower the lanes' `ready_at` and append the events, in this order.
pub(in crate::db) async fn store<'a>(
    connection: &mut PgConnection,
    group: &'a [MessageInsert],
    now: DateTime<Utc>,
) -> Result<Inserted<'a>, sqlx::Error> {
    let results = claim_keys(connection, group, now).await?;
    let is_fresh = |result: &Committed| matches!(result, Committed::New { .. });
    let fresh = group.iter().zip(&results).filter(|(_, result)| is_fresh(result)).map(|(intake, _)| intake).collect();
    let mut stored = Inserted { results, fresh, suppressed: Suppressed::new(), waiting: Vec::new() };
    if stored.fresh.is_empty() {
        return Ok(stored);
    }
    stored.suppressed = suppressed(connection, &stored.fresh).await?;
    let marked = insert(connection, &stored.fresh, &stored.suppressed, now).await?;
    for (intake, result) in group.iter().zip(&mut stored.results) {
        if let Committed::New { suppressed, taken, unsubscribe } = result {
            *unsubscribe = marked.contains(&intake.message.id.0);
            for (recipient, lane) in intake.message.recipients.iter().zip(&intake.lanes) {
                if stored.suppressed.contains_key(&recipient.id) {
                    suppressed.push(recipient.id);
                } else if marked.contains(&recipient.id.0) {
                    taken.push(recipient.id);
                } else {
                    stored.waiting.push(Lowered { lane: lane.id, due_at: intake.due_at() });
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
    let new = Committed::New { suppressed: Vec::new(), taken: Vec::new(), unsubscribe: false };
    let mut results = vec![new; group.len()];
    let mut keyed: Vec<Keyed<'_>> = group
        .iter()
        .enumerate()
        .filter_map(|(n, intake)| intake.idempotency.as_ref().map(|with| Keyed::new(n, intake, with)))
        .collect();
    if keyed.is_empty() {
        return Ok(results);
    }
    let first = claim(connection, &keyed, now).await?;
    // A value that another API key used is still available to this one, stored as `scoped`.
    let is_foreign = |keyed: &Keyed<'_>, used: &KeyUse| used.owner.is_some_and(|owner| owner != keyed.with.owner.0);
    let mut foreign = Vec::new();
    for (keyed, used) in keyed.drain(..).zip(first) {
        match used {
            Some(used) if is_foreign(&keyed, &used) => foreign.push(Keyed { key: keyed.scoped(), ..keyed }),
            used => results[keyed.n] = keyed.result(used),
        }
    }
    if !foreign.is_empty() {
        let first = claim(connection, &foreign, now).await?;
        for (keyed, used) in foreign.iter().zip(first) {
            results[keyed.n] = keyed.result(used);
        }
    }
    Ok(results)
}

/// A message of the group with an idempotency key.
struct Keyed<'a> {
    n: usize,
    intake: &'a MessageInsert,
    with: &'a IdempotencyKey,
    /// The stored value.
    key: Cow<'a, str>,
}

impl<'a> Keyed<'a> {
    fn new(n: usize, intake: &'a MessageInsert, with: &'a IdempotencyKey) -> Self {
        Self { n, intake, with, key: Cow::Borrowed(&with.key) }
    }

    fn scoped(&self) -> Cow<'a, str> {
        Cow::Owned(idempotency::scoped(self.with.owner, &self.with.key))
    }

    fn result(&self, used: Option<KeyUse>) -> Committed {
        match used {
            Some(used) if used.message_id != self.intake.message.id.0 => Committed::KeyUsed(used),
            _ => Committed::New { suppressed: Vec::new(), taken: Vec::new(), unsubscribe: false },
        }
    }
}

/// Inserts unused idempotency keys. Returns the current use of each key.
async fn claim(
    connection: &mut PgConnection,
    keyed: &[Keyed<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Option<KeyUse>>, sqlx::Error> {
    let tenants: Vec<Uuid> = keyed.iter().map(|one| one.intake.tenant.0).collect();
    let keys: Vec<&str> = keyed.iter().map(|one| &*one.key).collect();
    let fingerprints: Vec<&[u8]> = keyed.iter().map(|one| &one.with.fingerprint[..]).collect();
    let digests: Vec<&[u8]> = keyed.iter().map(|one| &one.with.digest[..]).collect();
    let owners: Vec<Uuid> = keyed.iter().map(|one| one.with.owner.0).collect();
    let messages: Vec<Uuid> = keyed.iter().map(|one| one.intake.message.id.0).collect();
    // In a fixed order, so that two replicas with the same keys cannot deadlock.
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
        let Some(place) = usize::try_from(row.n - 1).ok().and_then(|place| found.get_mut(place)) else { continue };
        *place = Some(KeyUse {
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

/// Returns the recipients of the group whose address is suppressed at their due time, as this transaction sees it.
/// Later suppressions are checked at claim.
async fn suppressed(connection: &mut PgConnection, group: &[&MessageInsert]) -> Result<Suppressed, sqlx::Error> {
    let (ids, addressed): (Vec<RecipientId>, Vec<Addressed<'_>>) = group
        .iter()
        .filter(|intake| !intake.message.ignore_suppression)
        .flat_map(|intake| intake.message.recipients.iter().map(move |recipient| (*intake, recipient)))
        .map(|(intake, recipient)| {
            let address = AddressKey::from(&recipient.mailbox.address);
            let (tenant, stream, at) = (intake.tenant, &*intake.message.stream, intake.due_at());
            (recipient.id, Addressed { tenant, address, stream, at })
        })
        .unzip();
    let found = suppressions::find(connection, &addressed).await?;
    Ok(found.into_iter().filter_map(|(place, entry)| Some((*ids.get(place)?, entry.outcome()))).collect())
}

/// Returns the events of one message: accepted, and its suppressed recipients.
fn events_of<'a>(intake: &'a MessageInsert, suppressed: &'a Suppressed) -> impl Iterator<Item = NewEvent<'a>> {
    let (tenant, message, due_at) = (intake.tenant, intake.message.id, intake.due_at());
    let scheduled = (due_at > intake.message.created_at).then_some(due_at);
    let ended = intake.message.recipients.iter().filter_map(move |recipient| {
        let key = RecipientKey { tenant, message, recipient: recipient.id };
        Some(NewEvent::suppressed(key, suppressed.get(&recipient.id)?))
    });
    std::iter::once(NewEvent::accepted(tenant, message, scheduled)).chain(ended)
}
