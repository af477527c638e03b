//! The table `key_usage`: how much of their limits API keys have used. Processes lease blocks from it
//! (`domain::key::allowance`). A transaction locks the row of one key, and `event_counters` after it.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::allowance::{QuotaLease, QuotaUse, RateLease};
use crate::domain::key::{KeyQuota, KeyRate};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// A block of requests to lease.
#[derive(Debug, Clone, Copy)]
pub struct RateRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// The API key.
    pub key: KeyId,
    /// Its rate.
    pub rate: KeyRate,
    /// Number of unused requests of an earlier block.
    pub unused: u64,
    /// The current time.
    pub now: DateTime<Utc>,
}

/// Leases a block of requests.
pub async fn lease_requests(db: &Db, request: &RateRequest) -> Result<RateLease, DbError> {
    let RateRequest { tenant, key, rate, unused, now } = *request;
    db.timed("keys.usage.lease_requests", async {
        let mut tx = db.pool.begin().await?;
        let used_until = loop {
            // The commit does not wait for the disk: a crash of the database server loses only the use of the last
            // moment.
            let query = sqlx::query_scalar!(
                "WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
                 SELECT rate_used_until FROM relaxed, key_usage WHERE key_id = $1 FOR UPDATE OF key_usage",
                key.0
            );
            match query.fetch_optional(&mut *tx).await? {
                Some(used_until) => break used_until,
                None => create(&mut tx, tenant, key).await?,
            }
        };
        let lease = RateLease::new(rate, used_until, unused, now);
        // Also written if no request was leased: that corrects a time from a clock that was ahead.
        if lease.used_until != used_until {
            let query =
                sqlx::query!("UPDATE key_usage SET rate_used_until = $2 WHERE key_id = $1", key.0, lease.used_until);
            query.execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(lease)
    })
    .await
}

/// A block of recipients to lease.
#[derive(Debug, Clone, Copy)]
pub struct QuotaRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// The API key.
    pub key: KeyId,
    /// Its quota.
    pub quota: KeyQuota,
    /// Minimum number of recipients to lease.
    pub needed: u64,
    /// Number of unused recipients of an earlier block of the day.
    pub unused: u64,
    /// The current time.
    pub now: DateTime<Utc>,
}

/// Leases a block of recipients. Appends an event when 80 % or 100 % of the quota are reached. A refusal that changes nothing
/// does not wait for the disk.
pub async fn lease_recipients(db: &Db, request: &QuotaRequest) -> Result<QuotaLease, DbError> {
    let QuotaRequest { tenant, key, quota, needed, unused, now } = *request;
    db.timed("keys.usage.lease_recipients", async {
        let mut tx = db.pool.begin().await?;
        let before = loop {
            let query =
                sqlx::query!("SELECT day, recipients, reported FROM key_usage WHERE key_id = $1 FOR UPDATE", key.0);
            match query.fetch_optional(&mut *tx).await? {
                Some(row) => {
                    let recipients = u64::try_from(row.recipients).unwrap_or(0);
                    let reported = u8::try_from(row.reported).unwrap_or(0);
                    break QuotaUse { day: row.day, recipients, reported };
                }
                None => create(&mut tx, tenant, key).await?,
            }
        };
        let lease = QuotaLease::new(quota, before, needed, unused, now.date_naive());
        if lease.after == before {
            tx.rollback().await?;
            return Ok(lease);
        }
        let query = sqlx::query!(
            "UPDATE key_usage SET day = $2, recipients = $3, reported = $4 WHERE key_id = $1",
            key.0,
            lease.after.day,
            i64::try_from(lease.after.recipients).unwrap_or(i64::MAX),
            i16::from(lease.after.reported)
        );
        query.execute(&mut *tx).await?;
        if lease.must_report {
            let outcome = report(quota, &lease);
            let event = match lease.after.reported {
                100 => NewEvent::quota_reached(tenant, key, &outcome),
                _ => NewEvent::quota_warning(tenant, key, &outcome),
            };
            events::append(&mut tx, now, vec![event]).await?;
        }
        tx.commit().await?;
        Ok(lease)
    })
    .await
}

/// Releases recipients of `day` that were leased and not used.
pub async fn release_recipients(db: &Db, key: KeyId, day: NaiveDate, recipients: u64) -> Result<(), DbError> {
    let query = sqlx::query!(
        "UPDATE key_usage SET recipients = greatest(recipients - $3, 0) WHERE key_id = $1 AND day = $2",
        key.0,
        day,
        i64::try_from(recipients).unwrap_or(i64::MAX)
    );
    db.timed("keys.usage.release_recipients", query.execute(&db.pool)).await.map(drop)
}

/// Returns the number of recipients that a key has leased on `day`.
pub async fn recipients(db: &Db, tenant: TenantId, key: KeyId, day: NaiveDate) -> Result<i64, DbError> {
    let query = sqlx::query_scalar!(
        "SELECT recipients FROM key_usage WHERE tenant_id = $1 AND key_id = $2 AND day = $3",
        tenant.0,
        key.0,
        day
    );
    db.timed("keys.usage.recipients", query.fetch_optional(&db.pool)).await.map(Option::unwrap_or_default)
}

async fn create(connection: &mut PgConnection, tenant: TenantId, key: KeyId) -> Result<(), sqlx::Error> {
    let query = sqlx::query!(
        "INSERT INTO key_usage (key_id, tenant_id) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING",
        key.0,
        tenant.0
    );
    query.execute(connection).await.map(drop)
}

/// Returns the outcome that the event about a quota contains, with the text of the event as its reply.
fn report(quota: KeyQuota, lease: &QuotaLease) -> Outcome {
    let (used, limit, day) = (lease.after.recipients, quota.recipients_per_day, lease.after.day);
    let text = if lease.after.reported < 100 {
        format!("{used} of the {limit} recipients of {day} (UTC) are used.")
    } else {
        format!("All {limit} recipients of {day} (UTC) are used.")
    };
    Outcome {
        verdict: Verdict::Permanent,
        reply: Reply::local_error(text),
        peer: Peer::default(),
        duration: Duration::ZERO,
        stage: Stage::Connect,
    }
}
