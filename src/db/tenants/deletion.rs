//! Deletes the data of tenants, in steps of at most a few thousand rows. Each step is one transaction, which locks the
//! row of the deletion in `tenant_deletions` and records the progress there. So one worker at a time deletes, and after a
//! crash another one continues.
//!
//! A tenant that is being deleted is suspended, and its keys are revoked, so no other process adds rows. Recipients that
//! were leased when it was suspended keep their message until their worker has recorded the outcome.
//!
//! If the tenant has a test tenant, all steps first delete the rows of the test tenant, and the last one its row in `tenants`,
//! which refers to the tenant. Then the steps begin again.
//!
//! A deletion that fails is tried again a minute later. Meanwhile the others continue.

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
const GRACE: TimeDelta = TimeDelta::minutes(1);
/// Time until messages with leased recipients are tried again.
const LEASE_PAUSE: TimeDelta = TimeDelta::seconds(5);
/// Time until a deletion is tried again that has failed.
const FAILURE_PAUSE: TimeDelta = TimeDelta::minutes(1);

/// A step of a deletion.
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

/// The steps in their order. The position of the current one is stored: an unknown one was stored by a later version, and
/// means the first step.
///
/// A request that began before the deletion may add rows until the event counter is deleted, and a transaction without events
/// even later. So all steps run once more after [`Step::Events`].
const STEPS: [Step; 14] = [
    Step::Messages,
    Step::Bulks,
    Step::Blobs,
    Step::Webhooks,
    Step::WebhookAttempts,
    Step::Others,
    Step::Events,
    Step::Messages,
    Step::Bulks,
    Step::Blobs,
    Step::Webhooks,
    Step::WebhookAttempts,
    Step::Others,
    Step::Done,
];

/// Returns the step at a stored position.
fn step_at(position: i16) -> Step {
    usize::try_from(position).ok().and_then(|index| STEPS.get(index).copied()).unwrap_or(Step::Messages)
}

/// Returns whether the step at a stored position runs for the second time.
fn is_repeated(position: i16) -> bool {
    let before = usize::try_from(position).ok().and_then(|index| STEPS.get(..index));
    before.is_some_and(|before| before.contains(&step_at(position)))
}

/// A deletion in progress, whose row is locked.
#[derive(Debug, Clone)]
struct Deletion {
    /// The tenant to delete.
    id: TenantId,
    /// The tenant whose rows are deleted now: the same, or its test tenant.
    tenant: TenantId,
    /// When the first rows that the step deletes were added: when the tenant to delete was created, or, if the step runs
    /// again, when its deletion began.
    since: DateTime<Utc>,
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
#[derive(Debug)]
pub enum Advance {
    /// No tenant is being deleted, or other workers delete them, or they must wait.
    Nothing,
    /// Rows were deleted, or a step was completed.
    Progress(TenantId),
    /// A step failed, and this deletion waits.
    Failed(TenantId, DbError),
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
    let mut locked = None;
    let ended = db.timed("tenants.deletion.advance", run_step(db, now, &mut locked)).await;
    match (ended, locked) {
        (Err(error), Some(tenant)) => {
            postpone(db, tenant, now + FAILURE_PAUSE).await?;
            Ok(Advance::Failed(tenant, error))
        }
        (ended, _) => ended,
    }
}

/// Lets a deletion that has failed wait. If the database is unavailable, this fails too.
async fn postpone(db: &Db, tenant: TenantId, until: DateTime<Utc>) -> Result<(), DbError> {
    let query = sqlx::query!("UPDATE tenant_deletions SET open_at = $2 WHERE tenant_id = $1", tenant.0, until);
    db.timed("tenants.deletion.postpone", query.execute(&db.pool)).await.map(drop)
}

/// Locks a deletion, sets `locked` to its tenant, and deletes some rows.
async fn run_step(db: &Db, now: DateTime<Utc>, locked: &mut Option<TenantId>) -> Result<Advance, sqlx::Error> {
    let mut tx = db.pool.begin().await?;
    let row = sqlx::query!(
        r#"SELECT d.tenant_id, d.step, d.position, d.messages, d.rows, t.created_at, t.deleting_at
           FROM tenant_deletions d JOIN tenants t ON t.id = d.tenant_id
           WHERE t.deleted_at IS NULL AND d.open_at <= $1
           ORDER BY d.open_at, d.tenant_id LIMIT 1 FOR UPDATE OF d SKIP LOCKED"#,
        now
    )
    .fetch_optional(&mut *tx)
    .await?;
    let Some(row) = row else { return Ok(Advance::Nothing) };
    let id = TenantId(row.tenant_id);
    *locked = Some(id);
    let step = step_at(row.step);
    let tenant = next_tenant(&mut tx, id).await?;
    if step == Step::Done && tenant == id {
        finish(&mut tx, id, now).await?;
        tx.commit().await?;
        return Ok(Advance::Deleted { tenant: id, messages: row.messages, rows: row.rows });
    }
    let since = row.deleting_at.filter(|_| is_repeated(row.step)).unwrap_or(row.created_at);
    let deletion = Deletion { id, tenant, since, position: row.position };
    if step == Step::Done {
        remove_test_tenant(&mut tx, &deletion, now).await?;
    } else {
        let removed = remove(&mut tx, step, &deletion).await?;
        record(&mut tx, id, row.step, removed, now).await?;
    }
    tx.commit().await?;
    Ok(Advance::Progress(id))
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
    step: i16,
    removed: Removed,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (step, position) = if removed.is_complete { (step.saturating_add(1), None) } else { (step, removed.position) };
    let open_at = if removed.must_wait { now + LEASE_PAUSE } else { now };
    let query = sqlx::query!(
        "UPDATE tenant_deletions SET step = $2, position = $3, messages = messages + $4, rows = rows + $5, open_at = $6
         WHERE tenant_id = $1",
        tenant.0,
        step,
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
        "UPDATE tenant_deletions SET step = 0, position = NULL, open_at = $2 WHERE tenant_id = $1",
        deletion.id.0,
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
    fn all_steps_but_events_are_repeated_before_the_end() {
        let repeated: Vec<Step> = (0..14).filter(|position| is_repeated(*position)).map(step_at).collect();
        assert_eq!(repeated, STEPS[..6]);
        assert_eq!(
            [step_at(6), step_at(13), step_at(99), step_at(-1)],
            [Step::Events, Step::Done, Step::Messages, Step::Messages]
        );
    }
}
