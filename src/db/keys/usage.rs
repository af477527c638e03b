//! The tables `key_usage` and `tenant_usage`: how much of their limits API keys and tenants have used. Processes lease
//! blocks from them (`domain::key::allowance`). A transaction locks the row of one key or tenant, and `event_counters`
//! after it.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use crate::db::events::{self, NewEvent};
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::key::allowance::{QuotaLease, QuotaUse, RateLease};
use crate::domain::key::{KeyQuota, KeyRate, LimitOwner};
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// A block of requests to lease.
#[derive(Debug, Clone, Copy)]
pub struct RateRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// What the limit applies to: a key of the tenant, or the tenant.
    pub owner: LimitOwner,
    /// Its rate.
    pub rate: KeyRate,
    /// Number of unused requests of an earlier block.
    pub unused: u64,
    /// The current time.
    pub now: DateTime<Utc>,
}

/// Leases a block of requests.
pub async fn lease_requests(db: &Db, request: &RateRequest) -> Result<RateLease, DbError> {
    let RateRequest { tenant, owner, rate, unused, now } = *request;
    db.timed("keys.usage.lease_requests", async {
        let mut tx = db.pool.begin().await?;
        let used_until = loop {
            match lock_rate(&mut tx, owner).await? {
                Some(used_until) => break used_until,
                None => create(&mut tx, tenant, owner).await?,
            }
        };
        let lease = RateLease::new(rate, used_until, unused, now);
        // Also written if no request was leased: that corrects a time from a clock that was ahead.
        if lease.used_until != used_until {
            write_rate(&mut tx, owner, lease.used_until).await?;
        }
        tx.commit().await?;
        Ok(lease)
    })
    .await
}

/// Locks the row of a rate's use, and returns the use; `None` without a row. The commit does not wait for the disk: a
/// crash of the database server loses only the use of the last moment.
async fn lock_rate(connection: &mut PgConnection, owner: LimitOwner) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    match owner {
        LimitOwner::Key(key) => {
            let query = sqlx::query_scalar!(
                "WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
                 SELECT rate_used_until FROM relaxed, key_usage WHERE key_id = $1 FOR UPDATE OF key_usage",
                key.0
            );
            query.fetch_optional(connection).await
        }
        LimitOwner::Tenant(tenant) => {
            let query = sqlx::query_scalar!(
                "WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
                 SELECT rate_used_until FROM relaxed, tenant_usage WHERE tenant_id = $1 FOR UPDATE OF tenant_usage",
                tenant.0
            );
            query.fetch_optional(connection).await
        }
    }
}

async fn write_rate(
    connection: &mut PgConnection,
    owner: LimitOwner,
    used_until: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = match owner {
        LimitOwner::Key(key) => {
            sqlx::query!("UPDATE key_usage SET rate_used_until = $2 WHERE key_id = $1", key.0, used_until)
                .execute(connection)
                .await
        }
        LimitOwner::Tenant(tenant) => {
            sqlx::query!("UPDATE tenant_usage SET rate_used_until = $2 WHERE tenant_id = $1", tenant.0, used_until)
                .execute(connection)
                .await
        }
    };
    done.map(drop)
}

/// A block of recipients to lease.
#[derive(Debug, Clone, Copy)]
pub struct QuotaRequest {
    /// The tenant.
    pub tenant: TenantId,
    /// What the quota applies to: a key of the tenant, or the tenant.
    pub owner: LimitOwner,
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
    let QuotaRequest { tenant, owner, quota, needed, unused, now } = *request;
    db.timed("keys.usage.lease_recipients", async {
        let mut tx = db.pool.begin().await?;
        let before = loop {
            match lock_quota(&mut tx, owner).await? {
                Some(before) => break before,
                None => create(&mut tx, tenant, owner).await?,
            }
        };
        let lease = QuotaLease::new(quota, before, needed, unused, now.date_naive());
        if lease.after == before {
            tx.rollback().await?;
            return Ok(lease);
        }
        write_quota(&mut tx, owner, lease.after).await?;
        if lease.must_report {
            let outcome = report(quota, &lease);
            let event = match (owner, lease.after.reported) {
                (LimitOwner::Key(key), 100) => NewEvent::quota_reached(tenant, key, &outcome),
                (LimitOwner::Key(key), _) => NewEvent::quota_warning(tenant, key, &outcome),
                (LimitOwner::Tenant(_), 100) => NewEvent::tenant_quota_reached(tenant, &outcome),
                (LimitOwner::Tenant(_), _) => NewEvent::tenant_quota_warning(tenant, &outcome),
            };
            events::append(&mut tx, now, vec![event]).await?;
        }
        tx.commit().await?;
        Ok(lease)
    })
    .await
}

/// Locks the row of a quota's use, and returns the use; `None` without a row.
async fn lock_quota(connection: &mut PgConnection, owner: LimitOwner) -> Result<Option<QuotaUse>, sqlx::Error> {
    let new = |day, recipients: i64, reported: i16| QuotaUse {
        day,
        recipients: u64::try_from(recipients).unwrap_or(0),
        reported: u8::try_from(reported).unwrap_or(0),
    };
    match owner {
        LimitOwner::Key(key) => {
            let query =
                sqlx::query!("SELECT day, recipients, reported FROM key_usage WHERE key_id = $1 FOR UPDATE", key.0);
            let row = query.fetch_optional(connection).await?;
            Ok(row.map(|row| new(row.day, row.recipients, row.reported)))
        }
        LimitOwner::Tenant(tenant) => {
            let query = sqlx::query!(
                "SELECT day, recipients, reported FROM tenant_usage WHERE tenant_id = $1 FOR UPDATE",
                tenant.0
            );
            let row = query.fetch_optional(connection).await?;
            Ok(row.map(|row| new(row.day, row.recipients, row.reported)))
        }
    }
}

async fn write_quota(connection: &mut PgConnection, owner: LimitOwner, after: QuotaUse) -> Result<(), sqlx::Error> {
    let (recipients, reported) = (i64::try_from(after.recipients).unwrap_or(i64::MAX), i16::from(after.reported));
    let done = match owner {
        LimitOwner::Key(key) => {
            let query = sqlx::query!(
                "UPDATE key_usage SET day = $2, recipients = $3, reported = $4 WHERE key_id = $1",
                key.0,
                after.day,
                recipients,
                reported
            );
            query.execute(connection).await
        }
        LimitOwner::Tenant(tenant) => {
            let query = sqlx::query!(
                "UPDATE tenant_usage SET day = $2, recipients = $3, reported = $4 WHERE tenant_id = $1",
                tenant.0,
                after.day,
                recipients,
                reported
            );
            query.execute(connection).await
        }
    };
    done.map(drop)
}

/// Releases recipients of `day` that were leased and not used.
pub async fn release_recipients(db: &Db, owner: LimitOwner, day: NaiveDate, recipients: u64) -> Result<(), DbError> {
    let recipients = i64::try_from(recipients).unwrap_or(i64::MAX);
    db.timed("keys.usage.release_recipients", async {
        match owner {
            LimitOwner::Key(key) => {
                let query = sqlx::query!(
                    "UPDATE key_usage SET recipients = greatest(recipients - $3, 0) WHERE key_id = $1 AND day = $2",
                    key.0,
                    day,
                    recipients
                );
                query.execute(&db.pool).await.map(drop)
            }
            LimitOwner::Tenant(tenant) => {
                let query = sqlx::query!(
                    "UPDATE tenant_usage SET recipients = greatest(recipients - $3, 0) WHERE tenant_id = $1 AND day = $2",
                    tenant.0,
                    day,
                    recipients
                );
                query.execute(&db.pool).await.map(drop)
            }
        }
    })
    .await
}

/// Returns the number of recipients that a key of the tenant, or the tenant, has leased on `day`.
pub async fn recipients(db: &Db, tenant: TenantId, owner: LimitOwner, day: NaiveDate) -> Result<i64, DbError> {
    db.timed("keys.usage.recipients", async {
        let recipients = match owner {
            LimitOwner::Key(key) => {
                let query = sqlx::query_scalar!(
                    "SELECT recipients FROM key_usage WHERE tenant_id = $1 AND key_id = $2 AND day = $3",
                    tenant.0,
                    key.0,
                    day
                );
                query.fetch_optional(&db.pool).await?
            }
            LimitOwner::Tenant(_) => {
                let query = sqlx::query_scalar!(
                    "SELECT recipients FROM tenant_usage WHERE tenant_id = $1 AND day = $2",
                    tenant.0,
                    day
                );
                query.fetch_optional(&db.pool).await?
            }
        };
        Ok(recipients.unwrap_or_default())
    })
    .await
}

async fn create(connection: &mut PgConnection, tenant: TenantId, owner: LimitOwner) -> Result<(), sqlx::Error> {
    let done = match owner {
        LimitOwner::Key(key) => {
            let query = sqlx::query!(
                "INSERT INTO key_usage (key_id, tenant_id) VALUES ($1, $2) ON CONFLICT (key_id) DO NOTHING",
                key.0,
                tenant.0
            );
            query.execute(connection).await
        }
        LimitOwner::Tenant(tenant) => {
            let query =
                sqlx::query!("INSERT INTO tenant_usage (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING", tenant.0);
            query.execute(connection).await
        }
    };
    done.map(drop)
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
