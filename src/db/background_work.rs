//! Whether the background tasks of a process with the API have work, for several of them in one statement: idle processes ask
//! once a second.

use chrono::{DateTime, Utc};

use super::{Db, DbError};

/// Which tasks have work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one for each task")]
pub struct Due {
    /// Messages sent from SQL can be claimed, or a tenant whose messages wait may send now.
    pub sql_inbox: bool,
    /// A bulk of a tenant that is not suspended is unfinished, and not leased.
    pub bulks: bool,
    /// A received message is to be passed on, or a failure to be reported, and no process has claimed it.
    pub relays: bool,
    /// An action on messages is running, and not leased.
    pub actions: bool,
    /// An erasure is running, and not leased.
    pub erasures: bool,
}

/// Returns which tasks have work at `now`. Reads one row of each index that has some, and of the rows of `sql_inbox` that wait
/// for a quota or for a suspended tenant one per tenant, however many there are.
pub async fn due(db: &Db, now: DateTime<Utc>) -> Result<Due, DbError> {
    // ORDER BY, so that Postgres reads the index also while statistics say that the table is empty.
    let query = sqlx::query_as!(
        Due,
        r#"WITH RECURSIVE waiting (tenant_id) AS (
               (SELECT i.tenant_id FROM sql_inbox i WHERE i.refused_at IS NULL AND i.waits_for IS NOT NULL
                ORDER BY i.tenant_id LIMIT 1)
               UNION ALL
               SELECT (SELECT i.tenant_id FROM sql_inbox i
                       WHERE i.refused_at IS NULL AND i.waits_for IS NOT NULL AND i.tenant_id > w.tenant_id
                       ORDER BY i.tenant_id LIMIT 1)
               FROM waiting w WHERE w.tenant_id IS NOT NULL)
           SELECT (SELECT true FROM sql_inbox WHERE refused_at IS NULL AND waits_for IS NULL AND claimed_until <= $1
                   ORDER BY id LIMIT 1) IS NOT NULL
                  OR EXISTS (
                      SELECT FROM waiting w
                      WHERE (SELECT t.suspended_at IS NULL AND t.deleting_at IS NULL
                                AND (t.recipients_per_day IS NULL OR coalesce(u.recipients, 0) < t.recipients_per_day)
                             FROM tenants t LEFT JOIN tenant_usage u ON u.tenant_id = t.id AND u.day = $2
                             WHERE t.id = w.tenant_id))
                      AS "sql_inbox!",
                  (SELECT true FROM bulks b JOIN tenants t ON t.id = b.tenant_id AND t.suspended_at IS NULL
                   WHERE b.settled_at IS NULL AND b.leased_until <= $1
                   ORDER BY b.leased_until LIMIT 1) IS NOT NULL AS "bulks!",
                  (SELECT true FROM relays r JOIN tenants t ON t.id = r.tenant_id AND t.deleting_at IS NULL
                   WHERE (r.message_id IS NULL OR r.failed_at IS NOT NULL) AND r.claimed_until <= $1
                   ORDER BY r.received_id LIMIT 1) IS NOT NULL AS "relays!",
                  (SELECT true FROM message_actions WHERE status = 'running' AND leased_until <= $1
                   ORDER BY leased_until LIMIT 1) IS NOT NULL AS "actions!",
                  (SELECT true FROM erasures WHERE status = 'running' AND leased_until <= $1
                   ORDER BY leased_until LIMIT 1) IS NOT NULL AS "erasures!""#,
        now,
        now.date_naive()
    );
    db.timed("background_work.due", query.fetch_one(&db.pool)).await
}
