//! Deletes the data of tenants, in steps of at most a few thousand rows. Each step is one transaction, which locks the
//! row of the deletion in `tenant_deletions` and records the progress there. So one worker at a time deletes, and after a
//! crash another one continues.
//!
//! A tenant that is being deleted is suspended, and its keys are revoked, so no other process adds rows. Recipients that
//! were leased when it was suspended keep their message until their worker has recorded the outcome.
//!
//! If the tenant has a test tenant, all steps first delete the rows of the test tenant, and the last one its row in `tenants`,
//! which refers to the tenant. Then the steps begin again.

mod messages;
mod rows;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::Changed;
use crate::db::{Db, DbError};
use crate::domain::id::TenantId;
use crate::domain::tenant::tombstone_name;

/// Time until the first step, and until the next one if rows were added meanwhile: requests that began before the deletion
/// have ended by then.
const GRACE: TimeDelta = TimeDelta::seconds(10);
/// Time until messages with leased recipients are tried again.
const LEASE_PAUSE: TimeDelta = TimeDelta::seconds(5);

/// A step of a deletion. The number of each step is stored: add new ones before `Done`, and change no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Messages with their recipients, contents and rows in the queue, in the order of their ids.
    Messages,
    /// Bulks with their recipients and their content.
    Bulks,
    /// Attachments.
    Blobs,
    /// Webhook endpoints with their pending retries.
    Webhooks,
    /// The log of posts, in the order of its ids.
    WebhookAttempts,
    /// Everything else, except for events.
    Others,
    /// Events, of which no more can be appended.
    Events,
    /// The row of the test tenant is deleted, or the row of the tenant becomes a tombstone.
    Done,
}

impl Step {
    const ALL: [Self; 8] = [
        Self::Messages,
        Self::Bulks,
        Self::Blobs,
        Self::Webhooks,
        Self::WebhookAttempts,
        Self::Others,
        Self::Events,
        Self::Done,
    ];

    fn number(self) -> i16 {
        Self::ALL.iter().zip(0..).find_map(|(step, number)| (*step == self).then_some(number)).unwrap_or(0)
    }

    /// Returns the step with this number. An unknown one was stored by a later version, which begins again.
    fn from_number(number: i16) -> Self {
        usize::try_from(number).ok().and_then(|index| Self::ALL.get(index).copied()).unwrap_or(Self::Messages)
    }

    fn next(self) -> Self {
        Self::from_number(self.number() + 1)
    }
}

/// A deletion in progress, whose row is locked.
#[derive(Debug, Clone)]
struct Deletion {
    /// The tenant to delete.
    id: TenantId,
    /// The tenant whose rows are deleted now: the same, or its test tenant.
    tenant: TenantId,
    /// When the tenant to delete was created; neither has older rows.
    created_at: DateTime<Utc>,
    /// For steps in the order of ids: the last id that was read.
    position: Option<Uuid>,
}

/// What a part of a step has deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Removed {
    messages: u64,
    rows: u64,
    /// For steps in the order of ids: the last id that was read.
    position: Option<Uuid>,
    /// Whether the step has nothing left to do.
    is_complete: bool,
    /// Whether the step must wait for leased recipients.
    must_wait: bool,
}

/// The result of [`advance`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advance {
    /// No tenant is being deleted, or other workers delete them, or they must wait.
    Nothing,
    /// Rows were deleted, or a step was completed.
    Progress(TenantId),
    /// All data of the tenant has been deleted.
    Deleted {
        /// The tenant.
        tenant: TenantId,
        /// Number of its messages.
        messages: i64,
        /// Number of rows in all tables.
        rows: i64,
    },
}

/// Starts the deletion of a tenant: suspends it, and revokes its keys. Starting it again changes nothing. The default tenant
/// is never deleted.
pub async fn start(db: &Db, id: TenantId, now: DateTime<Utc>) -> Result<Changed, DbError> {
    if id == TenantId::DEFAULT {
        return Ok(Changed::Deleting);
    }
    db.timed("tenants.deletion.start", async {
        let mut tx = db.pool.begin().await?;
        // Changes of a tenant and of keys end with a lock of `key_changes`. So this transaction locks the tenant before it
        // changes the keys.
        let query = sqlx::query!("SELECT FROM tenants WHERE id = $1 AND test_of IS NULL FOR NO KEY UPDATE", id.0);
        if query.execute(&mut *tx).await?.rows_affected() == 0 {
            return Ok(Changed::Unknown);
        }
        sqlx::query!("UPDATE keys SET revoked_at = $2 WHERE tenant_id = $1 AND revoked_at IS NULL", id.0, now)
            .execute(&mut *tx)
            .await?;
        let query = sqlx::query!(
            "UPDATE tenants SET suspended_at = coalesce(suspended_at, $2), deleting_at = coalesce(deleting_at, $2)
             WHERE id = $1",
            id.0,
            now
        );
        query.execute(&mut *tx).await?;
        let query = sqlx::query!(
            "INSERT INTO tenant_deletions (tenant_id, open_at) VALUES ($1, $2) ON CONFLICT (tenant_id) DO NOTHING",
            id.0,
            now + GRACE
        );
        query.execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(Changed::Done)
    })
    .await
}

/// Deletes some rows of one tenant.
pub async fn advance(db: &Db, now: DateTime<Utc>) -> Result<Advance, DbError> {
    db.timed("tenants.deletion.advance", async {
        let mut tx = db.pool.begin().await?;
        let row = sqlx::query!(
            "SELECT d.tenant_id, d.step, d.position, d.messages, d.rows, t.created_at
             FROM tenant_deletions d JOIN tenants t ON t.id = d.tenant_id
             WHERE t.deleted_at IS NULL AND d.open_at <= $1
             ORDER BY d.open_at, d.tenant_id LIMIT 1 FOR UPDATE OF d SKIP LOCKED",
            now
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(Advance::Nothing) };
        let (id, step) = (TenantId(row.tenant_id), Step::from_number(row.step));
        let tenant = next_tenant(&mut tx, id).await?;
        if step == Step::Done && tenant == id {
            finish(&mut tx, id, now).await?;
            tx.commit().await?;
            return Ok(Advance::Deleted { tenant: id, messages: row.messages, rows: row.rows });
        }
        let deletion = Deletion { id, tenant, created_at: row.created_at, position: row.position };
        if step == Step::Done {
            remove_test_tenant(&mut tx, &deletion, now).await?;
        } else {
            let removed = remove(&mut tx, step, &deletion).await?;
            record(&mut tx, id, step, removed, now).await?;
        }
        tx.commit().await?;
        Ok(Advance::Progress(id))
    })
    .await
}

/// Returns the tenant whose rows are deleted now. A statement of its own, after the row of the deletion was locked: another
/// worker may just have deleted the test tenant.
async fn next_tenant(connection: &mut PgConnection, id: TenantId) -> Result<TenantId, sqlx::Error> {
    let test =
        sqlx::query_scalar!("SELECT id FROM tenants WHERE test_of = $1", id.0).fetch_optional(connection).await?;
    Ok(test.map_or(id, TenantId))
}

async fn remove(connection: &mut PgConnection, step: Step, deletion: &Deletion) -> Result<Removed, sqlx::Error> {
    let tenant = deletion.tenant;
    match step {
        Step::Messages => messages::remove(connection, deletion).await,
        Step::Bulks => rows::bulks(connection, tenant).await,
        Step::Blobs => rows::blobs(connection, tenant).await,
        Step::Webhooks => rows::webhooks(connection, tenant).await,
        Step::WebhookAttempts => rows::webhook_attempts(connection, deletion).await,
        Step::Others => rows::others(connection, tenant).await,
        Step::Events => rows::events(connection, tenant).await,
        Step::Done => Ok(Removed { is_complete: true, ..Removed::default() }),
    }
}

/// Records the progress.
async fn record(
    connection: &mut PgConnection,
    tenant: TenantId,
    step: Step,
    removed: Removed,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (step, position) = if removed.is_complete { (step.next(), None) } else { (step, removed.position) };
    let open_at = if removed.must_wait { now + LEASE_PAUSE } else { now };
    let query = sqlx::query!(
        "UPDATE tenant_deletions SET step = $2, position = $3, messages = messages + $4, rows = rows + $5, open_at = $6
         WHERE tenant_id = $1",
        tenant.0,
        step.number(),
        position,
        i64::try_from(removed.messages).unwrap_or(i64::MAX),
        i64::try_from(removed.rows).unwrap_or(i64::MAX),
        open_at
    );
    query.execute(connection).await.map(drop)
}

/// Deletes the row of the test tenant, and begins again with the rows of the live tenant. If a foreign key shows that a row of
/// the test tenant was added meanwhile, begins again with the rows of the test tenant.
async fn remove_test_tenant(
    connection: &mut PgConnection,
    deletion: &Deletion,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut savepoint = connection.begin().await?;
    let query = sqlx::query!("DELETE FROM tenants WHERE id = $1 AND test_of IS NOT NULL", deletion.tenant.0);
    let open_at = match query.execute(&mut *savepoint).await {
        Ok(_) => {
            savepoint.commit().await?;
            now
        }
        Err(sqlx::Error::Database(error)) if error.is_foreign_key_violation() => {
            savepoint.rollback().await?;
            now + GRACE
        }
        Err(error) => return Err(error),
    };
    let query = sqlx::query!(
        "UPDATE tenant_deletions SET step = $2, position = NULL, open_at = $3 WHERE tenant_id = $1",
        deletion.id.0,
        Step::Messages.number(),
        open_at
    );
    query.execute(connection).await.map(drop)
}

/// Makes the tenant's row a tombstone, whose name is its id, so that its name can be used again.
async fn finish(connection: &mut PgConnection, tenant: TenantId, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let query = sqlx::query!(
        "UPDATE tenants SET deleted_at = $2, name = $3, suspend_reason = NULL, requests_per_second = NULL, burst = NULL,
             recipients_per_day = NULL
         WHERE id = $1",
        tenant.0,
        now,
        tombstone_name(tenant)
    );
    query.execute(connection).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_each_other_to_the_end() {
        let mut step = Step::from_number(0);
        for expected in Step::ALL {
            assert_eq!((step, Step::from_number(step.number())), (expected, expected));
            step = step.next();
        }
        assert_eq!(Step::from_number(99), Step::Messages);
    }
}
