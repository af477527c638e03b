//! The ledger: numbers of accepted recipients and of their states, counted from different tables, so that a lost row
//! becomes visible.

use chrono::{DateTime, Utc};

use super::{Db, DbError};
use crate::domain::id::TenantId;

/// Numbers of recipients of the messages accepted in a time span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Messages.
    pub messages: i64,
    /// Messages without recipients, and messages that are missing although recipients exist.
    pub unmatched: i64,
    /// Recipients of these messages.
    pub accepted: i64,
    /// Delivered to the recipient's mail server.
    pub delivered: i64,
    /// See [`crate::domain::delivery::Status::Relayed`].
    pub relayed: i64,
    /// Permanent failures.
    pub bounced: i64,
    /// Retry window or `expires_at` passed.
    pub expired: i64,
    /// On the suppression list.
    pub suppressed: i64,
    /// Canceled by the sender.
    pub canceled: i64,
    /// The connection dropped after the final dot, before the reply.
    pub uncertain: i64,
    /// Queue rows, leased or not.
    pub in_flight: i64,
    /// Queue rows waiting for the first attempt.
    pub queued: i64,
    /// Queue rows waiting for another attempt.
    pub deferred: i64,
    /// Queue rows waiting for `scheduled_at`.
    pub scheduled: i64,
    /// Leased queue rows.
    pub sending: i64,
    /// Queue rows held for an operator.
    pub held: i64,
    /// Queue rows whose recipient is in an end state or missing.
    pub stray: i64,
}

/// Counts the messages accepted at or after `since` and before `until`, in one snapshot; without `until`, up to the
/// newest.
pub async fn tally(
    db: &Db,
    tenant: TenantId,
    since: DateTime<Utc>,
    until: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Tally, DbError> {
    // Ids contain the time, so a span reads only the weekly partitions that it touches.
    let query = sqlx::query_as!(
        Tally,
        r#"WITH whole AS (
               SELECT count(m.id) AS messages, count(*) FILTER (WHERE m.id IS NULL OR r.message_id IS NULL) AS unmatched,
                      sum(r.accepted) AS accepted, sum(r.delivered) AS delivered, sum(r.relayed) AS relayed,
                      sum(r.bounced) AS bounced, sum(r.expired) AS expired, sum(r.suppressed) AS suppressed,
                      sum(r.canceled) AS canceled, sum(r.uncertain) AS uncertain
               FROM (SELECT id FROM messages
                     WHERE tenant_id = $1 AND id >= uuid_floor($2)
                       AND id < coalesce(uuid_floor($3), 'ffffffff-ffff-ffff-ffff-ffffffffffff')) m
               FULL JOIN (
                   SELECT message_id, count(*) AS accepted,
                          count(*) FILTER (WHERE status = 'delivered') AS delivered,
                          count(*) FILTER (WHERE status = 'relayed') AS relayed,
                          count(*) FILTER (WHERE status = 'bounced') AS bounced,
                          count(*) FILTER (WHERE status = 'expired') AS expired,
                          count(*) FILTER (WHERE status = 'suppressed') AS suppressed,
                          count(*) FILTER (WHERE status = 'canceled') AS canceled,
                          count(*) FILTER (WHERE status = 'uncertain') AS uncertain
                   FROM recipients
                   WHERE tenant_id = $1 AND message_id >= uuid_floor($2)
                     AND message_id < coalesce(uuid_floor($3), 'ffffffff-ffff-ffff-ffff-ffffffffffff')
                   GROUP BY message_id) r ON r.message_id = m.id),
           going AS (
               SELECT count(*) AS in_flight,
                      count(*) FILTER (WHERE w.status = 'queued' AND q.held IS NULL) AS queued,
                      count(*) FILTER (WHERE w.status = 'deferred' AND q.held IS NULL) AS deferred,
                      count(*) FILTER (WHERE w.status = 'scheduled') AS scheduled,
                      count(*) FILTER (WHERE w.status = 'sending') AS sending,
                      count(*) FILTER (WHERE q.held IS NOT NULL) AS held,
                      count(*) FILTER (WHERE r.id IS NULL OR r.finished_at IS NOT NULL) AS stray
               FROM queue q
               LEFT JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id
                   AND r.tenant_id = q.tenant_id AND r.message_id >= uuid_floor($2)
               CROSS JOIN LATERAL (SELECT recipient_status(r.status, q.lease, q.first_due_at, $4) AS status) w
               WHERE q.tenant_id = $1 AND q.message_id >= uuid_floor($2)
                 AND q.message_id < coalesce(uuid_floor($3), 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
           SELECT messages AS "messages!", unmatched AS "unmatched!", coalesce(accepted, 0)::bigint AS "accepted!",
                  coalesce(delivered, 0)::bigint AS "delivered!", coalesce(relayed, 0)::bigint AS "relayed!",
                  coalesce(bounced, 0)::bigint AS "bounced!", coalesce(expired, 0)::bigint AS "expired!",
                  coalesce(suppressed, 0)::bigint AS "suppressed!", coalesce(canceled, 0)::bigint AS "canceled!",
                  coalesce(uncertain, 0)::bigint AS "uncertain!", in_flight AS "in_flight!", queued AS "queued!",
                  deferred AS "deferred!", scheduled AS "scheduled!", sending AS "sending!", held AS "held!",
                  stray AS "stray!"
           FROM whole, going"#,
        tenant.0,
        since,
        until,
        now
    );
    db.timed("ledger.tally", query.fetch_one(&db.pool)).await
}
