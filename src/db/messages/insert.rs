//! What makes messages ours: content, message, recipients and queue of a whole group of requests at once. When the transaction
//! ([`crate::db::group_commit`]) has committed, their senders get 202.

mod rows;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::idempotency::{self, KeyUse};
use crate::db::events::NewEvent;
use crate::db::lanes::NamedLane;
use crate::db::queue::ready_at::Lowered;
use crate::db::suppressions::{self, Addressed};
use crate::domain::event::EventType;
use crate::domain::id::{KeyId, RecipientId, TenantId};
use crate::domain::message::NewMessage;
use crate::domain::outcome::Outcome;
use crate::domain::suppression::AddressKey;
use rows::{Contents, Messages, Queue, Recipients};

/// One message to commit.
#[derive(Debug)]
pub struct MessageInsert {
    /// Whose it is.
    pub tenant: TenantId,
    /// The message; its attachments' bytes are stored already.
    pub message: NewMessage,
    /// The lane of each recipient, in the recipients' order.
    pub lanes: Vec<NamedLane>,
    /// The `Idempotency-Key`, whose it is, and what its request is compared by.
    pub idempotency: Option<IdempotencyKey>,
    /// The worker that would have it at once, without a claim.
    pub taker: Option<Uuid>,
}

/// A key that a request is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// As in the header.
    pub key: String,
    /// The API key that the request came with.
    pub owner: KeyId,
    /// SHA-256 of the request's bytes.
    pub fingerprint: [u8; 32],
    /// SHA-256 of the parsed request.
    pub digest: [u8; 32],
}

/// What became of one message of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is ours.
    New {
        /// Those of its recipients who get nothing.
        suppressed: Vec<RecipientId>,
        /// Those who are leased to the taker, as by a claim before the first. The others wait.
        taken: Vec<RecipientId>,
        /// Whether it carries a link to unsubscribe by.
        unsubscribe: bool,
    },
    /// Its key was used before, by the request that made this message.
    KeyUsed(KeyUse),
}

impl MessageInsert {
    /// When its first attempt may start.
    pub fn due_at(&self) -> DateTime<Utc> {
        self.message.scheduled_at.unwrap_or(self.message.created_at)
    }
}

/// Messages that have been stored by a transaction, and what it still owes for them.
#[derive(Debug)]
pub(in crate::db) struct Inserted<'a> {
    /// What became of each of the group.
    pub results: Vec<Committed>,
    fresh: Vec<&'a MessageInsert>,
    suppressed: Suppressed,
    /// The rows that wait.
    pub waiting: Vec<Lowered>,
}

impl Inserted<'_> {
    /// That they were accepted, and who of them gets nothing.
    pub fn events(&self) -> impl Iterator<Item = NewEvent<'_>> {
        self.fresh.iter().flat_map(|intake| events_of(intake, &self.suppressed))
    }
}

/// Stores the group, or nothing of it. No two members may share an idempotency key of one API key. The transaction owes the lanes their bounds,
/// and then the events.
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
    // What another API key has is free for this one, under a text of its own.
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

/// A member of the group that has a key.
struct Keyed<'a> {
    n: usize,
    intake: &'a MessageInsert,
    with: &'a IdempotencyKey,
    /// The text under which it is stored.
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

/// Claims keys that are free. Returns for each what it stands for now.
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
    // In one order, so that two replicas with the same keys never wait for each other.
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

/// Those who get nothing, each with what its history says of it.
type Suppressed = HashMap<RecipientId, Outcome>;

/// Who of the group is suppressed when its mail is due, as this transaction sees it. Who is a moment later is found at claim.
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

/// Writes all rows at once: each statement costs a way to the server and back. Answers the messages that carry a link to
/// unsubscribe by, and the recipients that are leased to their takers: those whose lane is open, has no limit that a claim would
/// have to ask, and nothing that is due and waits. Nobody takes for a worker that has been declared dead.
async fn insert(
    connection: &mut PgConnection,
    group: &[&MessageInsert],
    suppressed: &Suppressed,
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let (contents, messages) = (Contents::of(group), Messages::of(group));
    let (recipients, queue) = (Recipients::of(group, suppressed), Queue::of(group, suppressed));
    // The newest version of a lane, found at the end of the index, as in lower_lanes.
    let marked = sqlx::query_scalar!(
        r#"WITH content AS (
               INSERT INTO contents (id, tenant_id, text, html, headers, attachments)
               SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[])),
           message AS (
               INSERT INTO messages (id, content_id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject,
                                     tags, metadata, scheduled_at, expires_at, on_uncertain, size, ignore_suppression,
                                     unsubscribe)
               SELECT id, id, u.tenant_id, u.created_at, stream, from_address, from_name, reply_to, subject, tags, metadata,
                      scheduled_at, expires_at, on_uncertain, size, ignore_suppression,
                      u.may_carry AND coalesce(s.unsubscribe, false)
               FROM unnest($1::uuid[], $2::uuid[], $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::jsonb[],
                           $12::text[], $13::jsonb[], $14::jsonb[], $15::timestamptz[], $16::timestamptz[], $17::text[],
                           $18::bigint[], $19::boolean[], $20::boolean[])
                    AS u (id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject, tags, metadata,
                          scheduled_at, expires_at, on_uncertain, size, ignore_suppression, may_carry)
               LEFT JOIN streams s ON s.tenant_id = u.tenant_id AND s.name = u.stream
               RETURNING id, unsubscribe),
           recipient AS (
               INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, name, status, finished_at,
                                       response_text)
               SELECT message_id, id, tenant_id, position, kind, address, name,
                      CASE WHEN finished_at IS NULL THEN 'queued' ELSE 'suppressed' END, finished_at, words
               FROM unnest($21::uuid[], $22::uuid[], $23::uuid[], $24::smallint[], $25::text[], $26::text[], $27::text[],
                           $28::timestamptz[], $29::text[])
                    AS u (message_id, id, tenant_id, position, kind, address, name, finished_at, words)),
           alive AS MATERIALIZED (SELECT id FROM workers WHERE id = ANY ($37) FOR KEY SHARE),
           free AS MATERIALIZED (
               SELECT array_agg(open.worker_id ORDER BY offer.n) AS workers
               FROM unnest($37::uuid[], $38::bigint[]) WITH ORDINALITY AS offer (worker_id, lane_id, n)
               LEFT JOIN LATERAL (
                   SELECT alive.id AS worker_id
                   FROM alive
                   CROSS JOIN LATERAL (
                       SELECT * FROM lanes WHERE id >= offer.lane_id AND id <= offer.lane_id ORDER BY id DESC LIMIT 1) l
                   JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
                   WHERE alive.id = offer.worker_id
                     AND l.ready_at > $39 AND l.open_at <= $39 AND s.open_at <= $39
                     AND l.paused_at IS NULL AND s.paused_at IS NULL AND l.blocked_since IS NULL
                     AND l.rate IS NULL AND l.learned_rate IS NULL AND l.connections IS NULL
                     AND l.mails_per_connection IS NULL AND s.rate IS NULL AND s.concurrency IS NULL) open ON true),
           queued AS (
               INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at, expires_at, lease)
               SELECT u.message_id, u.recipient_id, u.tenant_id, u.lane_id, u.due_at, u.due_at, u.expires_at,
                      (SELECT workers FROM free)[u.offer]
               FROM unnest($30::uuid[], $31::uuid[], $32::uuid[], $33::bigint[], $34::timestamptz[], $35::timestamptz[],
                           $36::integer[])
                    AS u (message_id, recipient_id, tenant_id, lane_id, due_at, expires_at, offer)
               RETURNING recipient_id, lease)
           SELECT recipient_id AS "id!" FROM queued WHERE lease IS NOT NULL
           UNION ALL SELECT id FROM message WHERE unsubscribe"#,
        &contents.ids,
        &contents.tenants,
        &contents.texts as _,
        &contents.htmls as _,
        &contents.headers,
        &contents.attachments,
        &messages.created,
        &messages.streams as _,
        &messages.from_addresses,
        &messages.from_names as _,
        &messages.reply_to,
        &messages.subjects as _,
        &messages.tags,
        &messages.metadata,
        &messages.scheduled as _,
        &messages.expires as _,
        &messages.on_uncertain as _,
        &messages.sizes,
        &messages.ignore_suppression,
        &messages.may_carry_link,
        &recipients.messages,
        &recipients.ids,
        &recipients.tenants,
        &recipients.positions,
        &recipients.kinds as _,
        &recipients.addresses,
        &recipients.names as _,
        &recipients.finished as _,
        &recipients.words as _,
        &queue.messages,
        &queue.recipients,
        &queue.tenants,
        &queue.lanes,
        &queue.due,
        &queue.expires as _,
        &queue.offers as _,
        &queue.offering,
        &queue.offered,
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(marked.into_iter().collect())
}

/// That it was accepted, and who of it gets nothing.
fn events_of<'a>(intake: &'a MessageInsert, suppressed: &'a Suppressed) -> impl Iterator<Item = NewEvent<'a>> {
    let ended = intake.message.recipients.iter().filter_map(|recipient| {
        Some(NewEvent {
            vouched: None,
            kind: EventType::Suppressed,
            recipient_id: Some(recipient.id.0),
            outcome: Some(suppressed.get(&recipient.id)?),
            next_attempt_at: None,
            ..accepted(intake)
        })
    });
    std::iter::once(accepted(intake)).chain(ended)
}

fn accepted<'a>(intake: &MessageInsert) -> NewEvent<'a> {
    let later = intake.due_at() > intake.message.created_at;
    NewEvent {
        vouched: None,
        tenant: intake.tenant.0,
        kind: if later { EventType::Scheduled } else { EventType::Accepted },
        message_id: Some(intake.message.id.0),
        recipient_id: None,
        endpoint_id: None,
        attempt: None,
        outcome: None,
        next_attempt_at: later.then(|| intake.due_at()),
        bounce: None,
    }
}
