//! Ends a hold of the restore guard: what becomes of the recipients that wait, and the new epoch.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::super::events::skip::skip_numbers;
use super::super::pool::scan::{SCAN_LIMIT, allow_scan};
use super::super::queue::{self, Claimed, Finished};
use crate::db::messages::relays;
use crate::db::{Db, DbError};
use crate::domain::delivery::{Status, Transition};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Recipients that one transaction changes.
const PAGE: i64 = 500;

/// The recipients that a choice is about: those of messages that were accepted before the hold. Messages that were accepted
/// during the hold were never sent.
#[derive(Debug, Clone)]
pub struct Selection {
    /// When the hold began.
    pub accepted_before: DateTime<Utc>,
    /// Only recipients that were due before this time; `None` selects all.
    pub due_before: Option<DateTime<Utc>>,
    /// Only these streams; `None` selects all.
    pub streams: Option<Vec<String>>,
}

/// The number of waiting recipients of a stream, over all tenants.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// The name of the stream.
    pub stream: String,
    /// Recipients of messages that were accepted before the hold.
    pub before: i64,
    /// Those of them that the choice is about.
    pub selected: i64,
    /// Recipients of messages that were accepted during the hold.
    pub during: i64,
}

/// Counts the waiting recipients by stream.
pub async fn waiting(db: &Db, selection: &Selection) -> Result<Vec<Waiting>, DbError> {
    db.timed_for(SCAN_LIMIT, "release.waiting", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let rows = sqlx::query_as!(
            Waiting,
            r#"SELECT l.stream, count(*) FILTER (WHERE q.is_before) AS "before!",
                      count(*) FILTER (WHERE q.is_before AND ($2::timestamptz IS NULL OR q.due_at < $2)
                                         AND ($3::text[] IS NULL OR l.stream = ANY ($3))) AS "selected!",
                      count(*) FILTER (WHERE NOT q.is_before) AS "during!"
               FROM (SELECT lane_id, due_at, message_id < uuid_floor($1) AS is_before FROM queue) q
               JOIN lanes l ON l.id = q.lane_id
               GROUP BY l.stream ORDER BY l.stream"#,
            selection.accepted_before,
            selection.due_before,
            selection.streams.as_deref()
        )
        .fetch_all(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(rows)
    })
    .await
}

/// Counts the recipients of bulks that were accepted before the hold and are not messages yet.
pub async fn unexpanded(db: &Db, selection: &Selection) -> Result<i64, DbError> {
    let query = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM bulk_recipients r JOIN bulks b ON b.id = r.bulk_id AND b.tenant_id = r.tenant_id
           WHERE b.created_at < $1 AND b.state <> 'canceled' AND ($2::text[] IS NULL OR b.stream = ANY ($2))
             AND ($3::timestamptz IS NULL OR coalesce(b.scheduled_at, b.created_at) < $3)"#,
        selection.accepted_before,
        selection.streams.as_deref(),
        selection.due_before
    );
    db.timed_for(SCAN_LIMIT, "release.unexpanded", query.fetch_one(&db.pool)).await
}

/// Cancels the bulks that [`unexpanded`] counts: the rest of their recipients becomes canceled. The messages of a bulk that is due
/// later were never sent, so it continues.
pub async fn cancel_unexpanded(db: &Db, selection: &Selection, now: DateTime<Utc>) -> Result<u64, DbError> {
    let query = sqlx::query!(
        "WITH locked AS MATERIALIZED (
             SELECT tenant_id, id FROM bulks b
             WHERE created_at < $1 AND state <> 'canceled' AND ($2::text[] IS NULL OR stream = ANY ($2))
               AND ($4::timestamptz IS NULL OR coalesce(b.scheduled_at, b.created_at) < $4)
               AND EXISTS (SELECT FROM bulk_recipients r WHERE r.bulk_id = b.id AND r.tenant_id = b.tenant_id)
             ORDER BY tenant_id, id FOR UPDATE OF b)
         UPDATE bulks b SET state = 'canceled', settled_at = NULL, state_changed_at = $3
         FROM locked l WHERE b.tenant_id = l.tenant_id AND b.id = l.id",
        selection.accepted_before,
        selection.streams.as_deref(),
        now,
        selection.due_before
    );
    db.timed_for(SCAN_LIMIT, "release.cancel_unexpanded", query.execute(&db.pool))
        .await
        .map(|done| done.rows_affected())
}

/// Ends what is still to be done for messages that were received before the hold: they are not passed on, and their senders get no
/// report, because both may have happened before the restore. Returns how many were not passed on.
pub async fn end_relays(db: &Db, selection: &Selection) -> Result<u64, DbError> {
    if selection.streams.as_ref().is_some_and(|streams| !streams.iter().any(|stream| stream == relays::STREAM)) {
        return Ok(0);
    }
    let before = selection.due_before.map_or(selection.accepted_before, |at| at.min(selection.accepted_before));
    let query = sqlx::query_scalar!(
        r#"WITH locked AS MATERIALIZED (
               SELECT tenant_id, received_id, position, message_id IS NULL AS is_unsent FROM relays
               WHERE message_id IS NOT NULL AND failed_at < $1 OR message_id IS NULL AND received_id < uuid_floor($1)
               ORDER BY tenant_id, received_id, position FOR UPDATE),
           reports AS (
               UPDATE relays r SET failed_at = NULL FROM locked l
               WHERE NOT l.is_unsent AND r.tenant_id = l.tenant_id AND r.received_id = l.received_id
                 AND r.position = l.position),
           gone AS (
               DELETE FROM relays r USING locked l
               WHERE l.is_unsent AND r.tenant_id = l.tenant_id AND r.received_id = l.received_id
                 AND r.position = l.position RETURNING 1)
           SELECT count(*) AS "count!" FROM gone"#,
        before
    );
    db.timed_for(SCAN_LIMIT, "release.end_relays", query.fetch_one(&db.pool)).await.map(i64::unsigned_abs)
}

/// What becomes of the selected recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// They may have been sent before the restore.
    Uncertain,
    /// Nothing is sent to them.
    Canceled,
}

/// Where the next page begins.
pub type Position = (Uuid, Uuid);

/// Ends the selected recipients of one page. Returns how many, and where the next page begins; `None` at the end. This includes
/// recipients that a living worker has leased: it sent to them before the hold and the outcome was lost, or it sends to them now.
/// Its outcome then comes too late. Waits for locked rows, because they would be sent after the release.
pub async fn end_page(
    db: &Db,
    selection: &Selection,
    end: End,
    after: Position,
    now: DateTime<Utc>,
) -> Result<(usize, Option<Position>), DbError> {
    db.timed_for(SCAN_LIMIT, "release.end_page", async {
        let mut tx = db.pool.begin().await?;
        allow_scan(&mut tx).await?;
        let claimed = sqlx::query_as!(
            Claimed,
            r#"WITH picked AS MATERIALIZED (
                   SELECT q.message_id, q.recipient_id FROM queue q JOIN lanes l ON l.id = q.lane_id
                   WHERE (q.message_id, q.recipient_id) > ($1, $2) AND q.message_id < uuid_floor($3)
                     AND ($4::timestamptz IS NULL OR q.due_at < $4) AND ($5::text[] IS NULL OR l.stream = ANY ($5))
                   ORDER BY q.message_id, q.recipient_id LIMIT $6 FOR UPDATE OF q)
               UPDATE queue q SET lease = $7, claims = q.claims + 1
               FROM picked WHERE q.message_id = picked.message_id AND q.recipient_id = picked.recipient_id
               RETURNING q.message_id, q.recipient_id, q.tenant_id, q.lane_id, q.attempts, q.crashes, q.first_due_at,
                         q.lease AS "lease!", q.claims"#,
            after.0,
            after.1,
            selection.accepted_before,
            selection.due_before,
            selection.streams.as_deref(),
            PAGE,
            Uuid::now_v7()
        )
        .fetch_all(&mut *tx)
        .await?;
        let next = claimed.iter().map(Claimed::key).max();
        let finished: Vec<Finished> = claimed.into_iter().map(|claimed| finish(claimed, end, now)).collect();
        let count = queue::conclude(&mut tx, &finished, now).await?;
        tx.commit().await?;
        Ok((count, next))
    })
    .await
}

fn finish(claimed: Claimed, end: End, now: DateTime<Utc>) -> Finished {
    let uncertain = || Outcome {
        verdict: Verdict::Uncertain,
        reply: Reply::local_error_with(
            4,
            4,
            2,
            "the database was restored to a time before this message was due; it may have been sent after that time",
        ),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::FinalDot,
    };
    let (outcome, status) = match end {
        End::Uncertain => (Some(uncertain()), Status::Uncertain),
        End::Canceled => (None, Status::Canceled),
    };
    let transition = Transition::End(status);
    Finished {
        claimed,
        outcome,
        transition,
        started_at: now,
        is_alone: false,
        may_be_relayed: true,
        conversation: None,
    }
}

/// Ends the hold and begins a new epoch, in which this database counts as the newest state. `name` is the installation's name,
/// if one is configured; `epoch` is the epoch that was observed. Returns `false` if another process has begun a new one.
pub async fn release(db: &Db, name: Option<&str>, epoch: DateTime<Utc>, now: DateTime<Utc>) -> Result<bool, DbError> {
    db.timed_for(SCAN_LIMIT, "release.release", async {
        let mut tx = db.pool.begin().await?;
        let held = sqlx::query_scalar!(
            r#"SELECT held_at IS NOT NULL AS "is_held!" FROM installation WHERE epoch = $1 FOR UPDATE"#,
            epoch
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(was_recorded) = held else { return Ok(false) };
        sqlx::query!(
            "UPDATE installation i SET
                 id = coalesce(i.id, gen_random_uuid()), epoch = greatest(clock_timestamp(), i.epoch + interval '1 millisecond'), name = coalesce($1, i.name),
                 held_at = NULL, held_reason = NULL, held_detail = NULL,
                 mark = i.mark + 1, marked_at = clock_timestamp(), system_identifier = p.system_identifier,
                 timeline = p.timeline, lsn = p.lsn, table_oid = i.tableoid::bigint,
                 database_oid = (SELECT oid::bigint FROM pg_database WHERE datname = current_database())
             FROM server_position() p",
            name
        )
        .execute(&mut *tx)
        .await?;
        if !was_recorded {
            skip_numbers(&mut tx, now).await?;
        }
        tx.commit().await?;
        Ok(true)
    })
    .await
}
