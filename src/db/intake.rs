//! What makes messages ours: content, message, recipients and queue of a whole group of requests at once. When the transaction
//! ([`super::journal`]) has committed, their senders get 202.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::columns;
use super::events::NewEvent;
use super::lanes::Lowered;
use super::suppressions::{self, Addressed};
use crate::domain::event::EventType;
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::message::{NewMessage, NewRecipient};
use crate::domain::outcome::Outcome;
use crate::domain::suppression::AddressKey;
use crate::domain::unsubscribe;

/// One message to commit.
#[derive(Debug)]
pub struct Intake {
    /// Whose it is.
    pub tenant: TenantId,
    /// The message; its attachments' bytes are stored already.
    pub message: NewMessage,
    /// The lane of each recipient, in the recipients' order.
    pub lanes: Vec<i64>,
    /// The `Idempotency-Key` and the fingerprint of its request.
    pub idempotency: Option<(String, [u8; 32])>,
    /// The worker that would have it at once, without a claim.
    pub taker: Option<Uuid>,
}

/// What became of one message of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It is ours.
    New {
        /// Those of its recipients who get nothing.
        suppressed: Vec<RecipientId>,
        /// Those who are leased to the taker, as by a first claim. The others wait.
        taken: Vec<RecipientId>,
        /// Whether it carries a link to unsubscribe by.
        unsubscribe: bool,
    },
    /// Its key was used before, by the request that made this message.
    KeyUsed {
        /// The first request's message.
        message_id: MessageId,
        /// SHA-256 of the first request.
        fingerprint: Vec<u8>,
    },
}

impl Intake {
    /// When its first attempt may start.
    pub fn due_at(&self) -> DateTime<Utc> {
        self.message.scheduled_at.unwrap_or(self.message.created_at)
    }
}

/// Messages that have been stored by a transaction, and what it still owes for them.
#[derive(Debug)]
pub(super) struct Stored<'a> {
    /// What became of each of the group.
    pub results: Vec<Committed>,
    fresh: Vec<&'a Intake>,
    suppressed: Suppressed,
    /// The rows that wait.
    pub waiting: Vec<Lowered>,
}

impl Stored<'_> {
    /// That they were accepted, and who of them gets nothing.
    pub fn events(&self) -> impl Iterator<Item = NewEvent<'_>> {
        self.fresh.iter().flat_map(|intake| events_of(intake, &self.suppressed))
    }
}

/// Stores the group, or nothing of it. No two members may share an idempotency key. The transaction owes the lanes their bounds,
/// and then the events.
pub(super) async fn store<'a>(
    connection: &mut PgConnection,
    group: &'a [Intake],
    now: DateTime<Utc>,
) -> Result<Stored<'a>, sqlx::Error> {
    let results = claim_keys(connection, group, now).await?;
    let is_fresh = |result: &Committed| matches!(result, Committed::New { .. });
    let fresh = group.iter().zip(&results).filter(|(_, result)| is_fresh(result)).map(|(intake, _)| intake).collect();
    let mut stored = Stored { results, fresh, suppressed: Suppressed::new(), waiting: Vec::new() };
    if stored.fresh.is_empty() {
        return Ok(stored);
    }
    stored.suppressed = suppressed(connection, &stored.fresh).await?;
    insert_contents(connection, &stored.fresh).await?;
    let linked = insert_messages(connection, &stored.fresh).await?;
    insert_recipients(connection, &stored.fresh, &stored.suppressed).await?;
    let leased = insert_queue(connection, &stored.fresh, &stored.suppressed, now).await?;
    for (intake, result) in group.iter().zip(&mut stored.results) {
        if let Committed::New { suppressed, taken, unsubscribe } = result {
            *unsubscribe = linked.contains(&intake.message.id.0);
            for (recipient, lane) in intake.message.recipients.iter().zip(&intake.lanes) {
                if stored.suppressed.contains_key(&recipient.id) {
                    suppressed.push(recipient.id);
                } else if leased.contains(&recipient.id.0) {
                    taken.push(recipient.id);
                } else {
                    stored.waiting.push(Lowered { lane: *lane, due_at: intake.due_at() });
                }
            }
        }
    }
    Ok(stored)
}

async fn claim_keys(
    connection: &mut PgConnection,
    group: &[Intake],
    now: DateTime<Utc>,
) -> Result<Vec<Committed>, sqlx::Error> {
    let new = Committed::New { suppressed: Vec::new(), taken: Vec::new(), unsubscribe: false };
    let mut results = vec![new; group.len()];
    let keyed: Vec<(usize, &str, &[u8; 32])> = group
        .iter()
        .enumerate()
        .filter_map(|(n, intake)| intake.idempotency.as_ref().map(|(key, fingerprint)| (n, key.as_str(), fingerprint)))
        .collect();
    if keyed.is_empty() {
        return Ok(results);
    }
    let tenants: Vec<Uuid> = keyed.iter().map(|(n, ..)| group[*n].tenant.0).collect();
    let keys: Vec<&str> = keyed.iter().map(|(_, key, _)| *key).collect();
    let fingerprints: Vec<Vec<u8>> = keyed.iter().map(|(.., fingerprint)| fingerprint.to_vec()).collect();
    let messages: Vec<Uuid> = keyed.iter().map(|(n, ..)| group[*n].message.id.0).collect();
    // In one order, so that two replicas with the same keys never wait for each other.
    sqlx::query!(
        "INSERT INTO idempotency_keys (tenant_id, key, fingerprint, message_ids, created_at)
         SELECT tenant_id, key, fingerprint, ARRAY[message_id], $5
         FROM unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[]) AS u (tenant_id, key, fingerprint, message_id)
         ORDER BY tenant_id, key ON CONFLICT DO NOTHING",
        &tenants,
        &keys as _,
        &fingerprints,
        &messages,
        now
    )
    .execute(&mut *connection)
    .await?;
    let first = sqlx::query!(
        r#"SELECT u.n AS "n!", k.fingerprint, k.message_ids[1] AS "message_id!"
           FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS u (tenant_id, key, n)
           JOIN idempotency_keys k ON k.tenant_id = ANY (ARRAY[u.tenant_id]) AND k.key = u.key"#,
        &tenants,
        &keys as _
    )
    .fetch_all(connection)
    .await?;
    for row in first {
        let Some((n, ..)) = usize::try_from(row.n - 1).ok().and_then(|place| keyed.get(place)) else { continue };
        if row.message_id != group[*n].message.id.0 {
            results[*n] = Committed::KeyUsed { message_id: MessageId(row.message_id), fingerprint: row.fingerprint };
        }
    }
    Ok(results)
}

/// Those who get nothing, each with what its history says of it.
type Suppressed = HashMap<RecipientId, Outcome>;

/// Who of the group is suppressed when its mail is due, as this transaction sees it. Who is a moment later is found at claim.
async fn suppressed(connection: &mut PgConnection, group: &[&Intake]) -> Result<Suppressed, sqlx::Error> {
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

async fn insert_contents(connection: &mut PgConnection, group: &[&Intake]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = group.iter().map(|i| i.message.id.0).collect();
    let tenants: Vec<Uuid> = group.iter().map(|i| i.tenant.0).collect();
    let texts: Vec<Option<&str>> = group.iter().map(|i| i.message.content.text.as_deref()).collect();
    let htmls: Vec<Option<&str>> = group.iter().map(|i| i.message.content.html.as_deref()).collect();
    let headers: Vec<Value> = group.iter().map(|i| columns::headers(&i.message)).collect();
    let attachments: Vec<Value> = group.iter().map(|i| columns::attachments(&i.message)).collect();
    sqlx::query!(
        "INSERT INTO contents (id, tenant_id, text, html, headers, attachments)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::jsonb[])",
        &ids,
        &tenants,
        &texts as _,
        &htmls as _,
        &headers,
        &attachments
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers the messages that carry a link to unsubscribe by.
async fn insert_messages(connection: &mut PgConnection, group: &[&Intake]) -> Result<HashSet<Uuid>, sqlx::Error> {
    let messages = || group.iter().map(|intake| &intake.message);
    let ids: Vec<Uuid> = messages().map(|m| m.id.0).collect();
    let tenants: Vec<Uuid> = group.iter().map(|i| i.tenant.0).collect();
    let created: Vec<DateTime<Utc>> = messages().map(|m| m.created_at).collect();
    let streams: Vec<&str> = messages().map(|m| m.stream.as_str()).collect();
    let from_addresses: Vec<String> = messages().map(|m| m.from.address.to_string()).collect();
    let from_names: Vec<Option<&str>> = messages().map(|m| m.from.name.as_deref()).collect();
    let reply_to: Vec<Value> = messages().map(|m| columns::reply_to(&m.reply_to)).collect();
    let subjects: Vec<&str> = messages().map(|m| m.subject.as_str()).collect();
    let tags: Vec<Value> = messages().map(|m| json!(m.tags)).collect();
    let metadata: Vec<Value> = messages().map(|m| json!(m.metadata)).collect();
    let scheduled: Vec<Option<DateTime<Utc>>> = messages().map(|m| m.scheduled_at).collect();
    let expires: Vec<Option<DateTime<Utc>>> = messages().map(|m| m.expires_at).collect();
    let on_uncertain: Vec<&str> = messages().map(|m| m.on_uncertain.as_str()).collect();
    let sizes: Vec<i64> = messages().map(|m| i64::try_from(m.size()).unwrap_or(i64::MAX)).collect();
    let ignore: Vec<bool> = messages().map(|m| m.ignore_suppression).collect();
    // A link is for one recipient: with several, each would need a mail of its own.
    let may_carry: Vec<bool> =
        messages().map(|m| m.recipients.len() == 1 && !unsubscribe::is_in(&m.content.headers)).collect();
    let rows = sqlx::query!(
        r#"INSERT INTO messages (id, content_id, tenant_id, created_at, stream, from_address, from_name, reply_to,
                               subject, tags, metadata, scheduled_at, expires_at, on_uncertain, size, ignore_suppression,
                               unsubscribe)
         SELECT id, id, u.tenant_id, u.created_at, stream, from_address, from_name, reply_to, subject, tags, metadata,
                scheduled_at, expires_at, on_uncertain, size, ignore_suppression,
                u.may_carry AND coalesce(s.unsubscribe, false)
         FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::jsonb[],
                     $8::text[], $9::jsonb[], $10::jsonb[], $11::timestamptz[], $12::timestamptz[], $13::text[],
                     $14::bigint[], $15::boolean[], $16::boolean[])
              AS u (id, tenant_id, created_at, stream, from_address, from_name, reply_to, subject, tags, metadata,
                    scheduled_at, expires_at, on_uncertain, size, ignore_suppression, may_carry)
         LEFT JOIN streams s ON s.tenant_id = u.tenant_id AND s.name = u.stream
         RETURNING id, unsubscribe"#,
        &ids,
        &tenants,
        &created,
        &streams as _,
        &from_addresses,
        &from_names as _,
        &reply_to,
        &subjects as _,
        &tags,
        &metadata,
        &scheduled as _,
        &expires as _,
        &on_uncertain as _,
        &sizes,
        &ignore,
        &may_carry
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().filter(|row| row.unsubscribe).map(|row| row.id).collect())
}

async fn insert_recipients(
    connection: &mut PgConnection,
    group: &[&Intake],
    suppressed: &Suppressed,
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = group
        .iter()
        .flat_map(|intake| (0i16..).zip(&intake.message.recipients).map(move |(n, recipient)| (*intake, n, recipient)))
        .collect();
    let messages: Vec<Uuid> = rows.iter().map(|(intake, ..)| intake.message.id.0).collect();
    let tenants: Vec<Uuid> = rows.iter().map(|(intake, ..)| intake.tenant.0).collect();
    let positions: Vec<i16> = rows.iter().map(|(_, position, _)| *position).collect();
    let ids: Vec<Uuid> = rows.iter().map(|(.., recipient)| recipient.id.0).collect();
    let kinds: Vec<&str> = rows.iter().map(|(.., recipient)| recipient.kind.as_str()).collect();
    let addresses: Vec<String> = rows.iter().map(|(.., recipient)| recipient.mailbox.address.to_string()).collect();
    let names: Vec<Option<&str>> = rows.iter().map(|(.., recipient)| recipient.mailbox.name.as_deref()).collect();
    let ended = |recipient: &NewRecipient| suppressed.get(&recipient.id);
    let words: Vec<Option<&str>> = rows.iter().map(|(.., r)| ended(r).map(|outcome| &*outcome.reply.text)).collect();
    let finished: Vec<Option<DateTime<Utc>>> =
        rows.iter().map(|(intake, _, r)| ended(r).map(|_| intake.message.created_at)).collect();
    sqlx::query!(
        "INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, name, status, finished_at,
                                 response_text)
         SELECT message_id, id, tenant_id, position, kind, address, name,
                CASE WHEN finished_at IS NULL THEN 'queued' ELSE 'suppressed' END, finished_at, words
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::smallint[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::text[])
              AS u (message_id, id, tenant_id, position, kind, address, name, finished_at, words)",
        &messages,
        &ids,
        &tenants,
        &positions,
        &kinds as _,
        &addresses,
        &names as _,
        &finished as _,
        &words as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Answers the recipients that are leased to their takers: those whose lane is open, has no limit that a claim would have to
/// ask, and nothing that is due and waits. Nobody takes for a worker that has been declared dead.
async fn insert_queue(
    connection: &mut PgConnection,
    group: &[&Intake],
    suppressed: &Suppressed,
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let rows: Vec<_> = group
        .iter()
        .flat_map(|intake| {
            intake.message.recipients.iter().zip(&intake.lanes).map(move |(r, lane)| (*intake, r, *lane))
        })
        .filter(|(_, recipient, _)| !suppressed.contains_key(&recipient.id))
        .collect();
    if rows.is_empty() {
        return Ok(HashSet::new());
    }
    let messages: Vec<Uuid> = rows.iter().map(|(intake, ..)| intake.message.id.0).collect();
    let recipients: Vec<Uuid> = rows.iter().map(|(_, recipient, _)| recipient.id.0).collect();
    let tenants: Vec<Uuid> = rows.iter().map(|(intake, ..)| intake.tenant.0).collect();
    let lanes: Vec<i64> = rows.iter().map(|(.., lane)| *lane).collect();
    let due: Vec<DateTime<Utc>> = rows.iter().map(|(intake, ..)| intake.due_at()).collect();
    let expires: Vec<Option<DateTime<Utc>>> = rows.iter().map(|(intake, ..)| intake.message.expires_at).collect();
    let takers: Vec<Option<Uuid>> = rows.iter().map(|(intake, ..)| intake.taker).collect();
    let offered: BTreeSet<(Uuid, i64)> =
        rows.iter().filter_map(|(intake, _, lane)| Some((intake.taker?, *lane))).collect();
    let (workers, wanted): (Vec<Uuid>, Vec<i64>) = offered.into_iter().unzip();
    // The newest version of a lane, found at the end of the index, as in lower_lanes.
    let leased = sqlx::query_scalar!(
        r#"WITH alive AS MATERIALIZED (SELECT id FROM workers WHERE id = ANY ($8) FOR KEY SHARE),
           free AS MATERIALIZED (
               SELECT alive.id AS worker_id, l.id AS lane_id
               FROM unnest($8::uuid[], $9::bigint[]) AS offer (worker_id, lane_id)
               JOIN alive ON alive.id = offer.worker_id
               CROSS JOIN LATERAL (
                   SELECT * FROM lanes WHERE id >= offer.lane_id AND id <= offer.lane_id ORDER BY id DESC LIMIT 1) l
               JOIN streams s ON s.tenant_id = l.tenant_id AND s.name = l.stream
               WHERE l.ready_at > $10 AND l.open_at <= $10 AND s.open_at <= $10
                 AND l.paused_at IS NULL AND s.paused_at IS NULL AND l.blocked_since IS NULL
                 AND l.rate IS NULL AND l.learned_rate IS NULL AND l.connections IS NULL
                 AND s.rate IS NULL AND s.concurrency IS NULL),
           added AS (
               INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at, expires_at, lease, claims)
               SELECT u.message_id, u.recipient_id, u.tenant_id, u.lane_id, u.due_at, u.due_at, u.expires_at, free.worker_id,
                      CASE WHEN free.worker_id IS NULL THEN 0 ELSE 1 END
               FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::timestamptz[], $7::uuid[])
                    AS u (message_id, recipient_id, tenant_id, lane_id, due_at, expires_at, taker)
               LEFT JOIN free ON free.worker_id = u.taker AND free.lane_id = u.lane_id
               RETURNING recipient_id, lease)
           SELECT recipient_id FROM added WHERE lease IS NOT NULL"#,
        &messages,
        &recipients,
        &tenants,
        &lanes,
        &due,
        &expires as _,
        &takers as _,
        &workers,
        &wanted,
        now
    )
    .fetch_all(connection)
    .await?;
    Ok(leased.into_iter().collect())
}

/// That it was accepted, and who of it gets nothing.
fn events_of<'a>(intake: &'a Intake, suppressed: &'a Suppressed) -> impl Iterator<Item = NewEvent<'a>> {
    let ended = intake.message.recipients.iter().filter_map(|recipient| {
        Some(NewEvent {
            kind: EventType::Suppressed,
            recipient_id: Some(recipient.id.0),
            outcome: Some(suppressed.get(&recipient.id)?),
            next_attempt_at: None,
            ..accepted(intake)
        })
    });
    std::iter::once(accepted(intake)).chain(ended)
}

fn accepted<'a>(intake: &Intake) -> NewEvent<'a> {
    let later = intake.due_at() > intake.message.created_at;
    NewEvent {
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
