//! The table `suppressions`: addresses that must not be sent to. Batches of addresses are checked when messages are
//! accepted and when they are claimed, with one index lookup per address. Bounces, complaints, unsubscribes and the API
//! add entries.
//!
//! Transactions that write several entries do so in key order, so that they cannot deadlock.

pub mod list;
pub mod unsubscribe;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Db, DbError};
use crate::domain::address::Address;
use crate::domain::id::{MessageId, RecipientId, RecipientKey, TenantId};
use crate::domain::simulator;
use crate::domain::suppression::{AddressKey, Reason, Suppression};

/// A stored entry.
#[derive(Debug)]
pub(super) struct Row {
    pub address: String,
    pub stream: String,
    pub reason: String,
    pub message_id: Option<Uuid>,
    pub recipient_id: Option<Uuid>,
    pub note: Option<String>,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl From<Row> for Suppression {
    fn from(row: Row) -> Self {
        Self {
            address: AddressKey::from_column(row.address),
            stream: Some(row.stream).filter(|stream| !stream.is_empty()),
            // The column has a CHECK constraint. An entry with a reason of a later version still suppresses.
            reason: row.reason.parse().unwrap_or(Reason::Manual),
            message_id: row.message_id.map(MessageId),
            recipient_id: row.recipient_id.map(RecipientId),
            note: row.note,
            created_at: row.created_at,
            expires_at: row.expires_at,
        }
    }
}

/// An address that a message is about to be sent to.
#[derive(Debug, Clone)]
pub struct Addressed<'a> {
    /// The tenant.
    pub tenant: TenantId,
    /// The recipient's address.
    pub address: AddressKey,
    /// The message's stream.
    pub stream: &'a str,
    /// Time of sending. Entries that have expired by then do not count.
    pub at: DateTime<Utc>,
}

/// Returns the index and the entry of each suppressed address in the list. An entry for all streams takes precedence.
pub async fn check(db: &Db, addressed: &[Addressed<'_>]) -> Result<Vec<(usize, Suppression)>, DbError> {
    db.timed("suppressions.check", async {
        let mut connection = db.pool.acquire_hot().await?;
        find(&mut connection, addressed).await
    })
    .await
}

/// Like [`check`], within a transaction.
pub(super) async fn find(
    connection: &mut PgConnection,
    addressed: &[Addressed<'_>],
) -> Result<Vec<(usize, Suppression)>, sqlx::Error> {
    if addressed.is_empty() {
        return Ok(Vec::new());
    }
    let tenants: Vec<Uuid> = addressed.iter().map(|one| one.tenant.0).collect();
    let addresses: Vec<&str> = addressed.iter().map(|one| one.address.as_str()).collect();
    let streams: Vec<&str> = addressed.iter().map(|one| one.stream).collect();
    let times: Vec<DateTime<Utc>> = addressed.iter().map(|one| one.at).collect();
    // One index lookup per address, independent of the table's statistics: because of LIMIT, the planner cannot choose
    // another join. A tenant for which an address was erased has a key, and its entries may have pseudonyms. The condition on
    // the stream is one that the index does not serve: it would cost an index descent for each of two streams.
    let rows = sqlx::query!(
        r#"SELECT u.n AS "n!", s.address AS "address!", s.stream AS "stream!", s.reason AS "reason!", s.message_id,
                  s.recipient_id, s.note, s.created_at AS "created_at!", s.expires_at
           FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
                WITH ORDINALITY AS u (tenant_id, address, stream, at, n)
           CROSS JOIN LATERAL (
               SELECT * FROM suppressions s
               WHERE s.tenant_id = u.tenant_id
                 AND s.address = ANY (ARRAY[u.address, (SELECT erased_address(k.key, u.address) FROM erasure_keys k
                                                        WHERE k.tenant_id = u.tenant_id)])
                 AND coalesce(nullif(s.stream, ''), u.stream) = u.stream
                 AND (s.expires_at IS NULL OR s.expires_at > u.at)
               ORDER BY s.stream LIMIT 1) s"#,
        &tenants,
        &addresses as _,
        &streams as _,
        &times
    )
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().filter_map(|row| {
        let entry = Row {
            address: row.address,
            stream: row.stream,
            reason: row.reason,
            message_id: row.message_id,
            recipient_id: row.recipient_id,
            note: row.note,
            created_at: row.created_at,
            expires_at: row.expires_at,
        };
        Some((usize::try_from(row.n - 1).ok()?, entry.into()))
    });
    let mut found: Vec<(usize, Suppression)> = found.collect();
    for (index, one) in addressed.iter().enumerate().filter(|(_, one)| simulator::is_suppressed(one.address.as_str())) {
        if !found.iter().any(|(earlier, _)| *earlier == index) {
            found.push((index, simulated(one)));
        }
    }
    Ok(found)
}

/// Returns the entry of an address of the simulator that counts as suppressed without being on the list.
fn simulated(addressed: &Addressed<'_>) -> Suppression {
    Suppression {
        address: addressed.address.clone(),
        stream: None,
        reason: Reason::Manual,
        message_id: None,
        recipient_id: None,
        note: Some("the script `suppressed` of the simulator; the list has no entry".into()),
        created_at: addressed.at,
        expires_at: None,
    }
}

/// How to handle an existing entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Keep it unless the new entry expires later, so that adding an entry never shortens a suppression.
    KeptUnlessShorter,
    /// Replace it.
    Replaced,
}

/// The result of adding entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Added {
    /// Entries that were added.
    pub added: u64,
    /// Existing entries that were changed or had expired.
    pub updated: u64,
    /// Existing entries that were not changed, and duplicates in the request.
    pub unchanged: u64,
}

/// Adds entries, all or none.
pub async fn put(
    db: &Db,
    tenant: TenantId,
    entries: Vec<Suppression>,
    existing: Existing,
    now: DateTime<Utc>,
) -> Result<Added, DbError> {
    let entries: Vec<(TenantId, Suppression)> = entries.into_iter().map(|entry| (tenant, entry)).collect();
    db.timed("suppressions.put", async {
        let mut connection = db.pool.acquire().await?;
        add(&mut connection, &entries, existing, now).await
    })
    .await
}

/// Adds entries within a transaction. Must be called before the transaction reserves event numbers. Of duplicates in
/// `entries`, the last one is used. Concurrent additions of the same entry result in one entry.
pub(super) async fn add(
    connection: &mut PgConnection,
    entries: &[(TenantId, Suppression)],
    existing: Existing,
    now: DateTime<Utc>,
) -> Result<Added, sqlx::Error> {
    let stream = |entry: &Suppression| entry.stream.clone().unwrap_or_default();
    let distinct: Distinct<'_> =
        entries.iter().map(|(tenant, entry)| ((tenant.0, entry.address.as_str(), stream(entry)), entry)).collect();
    if distinct.is_empty() {
        return Ok(Added::default());
    }
    let entry = Columns::new(&distinct);
    // Rows that are not changed are locked too, so that a concurrent transaction that adds the same entry waits for
    // this one.
    let written = sqlx::query_scalar!(
        r#"INSERT INTO suppressions AS s (tenant_id, address, stream, reason, message_id, recipient_id, note, created_at,
                                          expires_at)
           SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::uuid[], $7::text[],
                                $8::timestamptz[], $9::timestamptz[])
                           AS u (tenant_id, address, stream, reason, message_id, recipient_id, note,
                                 created_at, expires_at)
           ORDER BY tenant_id, address COLLATE "C", stream COLLATE "C"
           ON CONFLICT (tenant_id, address, stream) DO UPDATE SET
               reason = excluded.reason, message_id = excluded.message_id, recipient_id = excluded.recipient_id,
               note = excluded.note, expires_at = excluded.expires_at,
               created_at = CASE WHEN s.expires_at <= $10 /* now */ OR s.reason <> excluded.reason THEN excluded.created_at
                            ELSE s.created_at END
           WHERE s.expires_at <= $10
              OR CASE WHEN $11 /* Replaced */ THEN (s.reason, s.note, s.expires_at)
                                    IS DISTINCT FROM (excluded.reason, excluded.note, excluded.expires_at)
                 ELSE coalesce(excluded.expires_at, 'infinity') > coalesce(s.expires_at, 'infinity') END
           RETURNING xmax = 0 AS "is_new!""#,
        &entry.tenant_id,
        &entry.address as _,
        &entry.stream as _,
        &entry.reason as _,
        &entry.message_id as _,
        &entry.recipient_id as _,
        &entry.note as _,
        &entry.created_at,
        &entry.expires_at as _,
        now,
        existing == Existing::Replaced
    )
    .fetch_all(connection)
    .await?;
    let added = written.iter().filter(|is_new| **is_new).count() as u64;
    let written = written.len() as u64;
    Ok(Added { added, updated: written - added, unchanged: entries.len() as u64 - written })
}

/// Entries by tenant, address and stream.
type Distinct<'a> = BTreeMap<(Uuid, &'a str, String), &'a Suppression>;

/// Entries as columns, in the order of the statement's parameters.
struct Columns<'a> {
    tenant_id: Vec<Uuid>,
    address: Vec<&'a str>,
    stream: Vec<&'a str>,
    reason: Vec<&'static str>,
    message_id: Vec<Option<Uuid>>,
    recipient_id: Vec<Option<Uuid>>,
    note: Vec<Option<&'a str>>,
    created_at: Vec<DateTime<Utc>>,
    expires_at: Vec<Option<DateTime<Utc>>>,
}

impl<'a> Columns<'a> {
    fn new(entries: &'a Distinct<'_>) -> Self {
        Self {
            tenant_id: entries.keys().map(|(tenant, ..)| *tenant).collect(),
            address: entries.keys().map(|(_, address, _)| *address).collect(),
            stream: entries.keys().map(|(.., stream)| stream.as_str()).collect(),
            reason: entries.values().map(|entry| entry.reason.as_str()).collect(),
            message_id: entries.values().map(|entry| entry.message_id.map(|id| id.0)).collect(),
            recipient_id: entries.values().map(|entry| entry.recipient_id.map(|id| id.0)).collect(),
            note: entries.values().map(|entry| entry.note.as_deref()).collect(),
            created_at: entries.values().map(|entry| entry.created_at).collect(),
            expires_at: entries.values().map(|entry| entry.expires_at).collect(),
        }
    }
}

/// Suppresses these recipients for all streams of their tenants, within the transaction that records the cause. Must be
/// called before the transaction reserves event numbers. An existing entry is changed only if it has an expiry time:
/// the new entry, which never expires, replaces it.
pub(super) async fn add_recipients(
    connection: &mut PgConnection,
    reason: Reason,
    sources: &[RecipientKey],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if sources.is_empty() {
        return Ok(());
    }
    let tenants: Vec<Uuid> = sources.iter().map(|source| source.tenant.0).collect();
    let messages: Vec<Uuid> = sources.iter().map(|source| source.message.0).collect();
    let recipients: Vec<Uuid> = sources.iter().map(|source| source.recipient.0).collect();
    let rows = sqlx::query!(
        "SELECT r.tenant_id, r.message_id, r.id, r.address
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS u (tenant_id, message_id, id)
         JOIN recipients r ON r.message_id = u.message_id AND r.id = u.id AND r.tenant_id = u.tenant_id
              AND r.message_id = ANY ($2)",
        &tenants,
        &messages,
        &recipients
    )
    .fetch_all(&mut *connection)
    .await?;
    let entries: Vec<(TenantId, Suppression)> = rows
        .into_iter()
        .filter_map(|row| {
            let address: Address = row.address.parse().ok()?;
            let entry = Suppression {
                address: AddressKey::from(&address),
                stream: None,
                reason,
                message_id: Some(MessageId(row.message_id)),
                recipient_id: Some(RecipientId(row.id)),
                note: None,
                created_at: now,
                expires_at: None,
            };
            Some((TenantId(row.tenant_id), entry))
        })
        .collect();
    add(connection, &entries, Existing::KeptUnlessShorter, now).await.map(|_| ())
}

/// Returns the address, or its pseudonym if it was erased: what is added from a message that the person still has does not store the
/// address again.
async fn pseudonym(
    connection: &mut PgConnection,
    tenant: TenantId,
    address: AddressKey,
) -> Result<AddressKey, sqlx::Error> {
    let erased = sqlx::query_scalar!(
        "SELECT e.pseudonym FROM erasure_keys k
         JOIN erasures e ON e.tenant_id = k.tenant_id AND e.pseudonym = erased_address(k.key, $2)
         WHERE k.tenant_id = $1 LIMIT 1",
        tenant.0,
        address.as_str()
    )
    .fetch_optional(connection)
    .await?;
    Ok(erased.map_or(address, AddressKey::from_column))
}

/// Maximum number of entries removed per statement.
const REMOVE_BATCH: i64 = 1_000;

/// Removes expired entries. Returns their number.
pub async fn remove_expired(db: &Db, now: DateTime<Utc>) -> Result<u64, DbError> {
    let mut removed = 0;
    loop {
        let query = sqlx::query!(
            "DELETE FROM suppressions WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM suppressions WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
            now,
            REMOVE_BATCH
        );
        let rows = db.timed("suppressions.remove_expired", query.execute(&db.pool)).await?.rows_affected();
        removed += rows;
        if rows < REMOVE_BATCH.unsigned_abs() {
            return Ok(removed);
        }
    }
}
