//! Deletes the data of tenants whose deletion an operator has requested, a few thousand rows at a time. Every worker runs it;
//! one at a time works on a tenant.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::SharedClock;
use crate::db::tenants::deletion::{self, Advance};
use crate::db::{Db, DbError, RestoreGate};
use crate::telemetry::RateLimitedLog;

/// Poll interval.
const INTERVAL: Duration = Duration::from_secs(5);
/// Pause after each step, so that the deletion uses only a part of the database's capacity.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) async fn run(db: Db, clock: SharedClock, gate: Arc<RestoreGate>) {
    let failed = RateLimitedLog::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = once(&db, &clock, &gate).await
            && let Some(times) = failed.note(tokio::time::Instant::now())
        {
            tracing::warn!(
                event = "tenant_deletion_failed",
                %error,
                times,
                "failed to delete data of a tenant; trying again"
            );
        }
    }
}

/// Deletes until no tenant has data that can be deleted now, or the restore guard forbids deletion. If deletions
/// fail, the others continue; returns the last error.
pub(crate) async fn once(db: &Db, clock: &SharedClock, gate: &RestoreGate) -> Result<(), DbError> {
    let mut failed = None;
    loop {
        if !gate.is_open() {
            return failed.map_or(Ok(()), Err);
        }
        match deletion::advance(db, clock.now()).await? {
            Advance::Nothing => return failed.map_or(Ok(()), Err),
            Advance::Failed(tenant, error) => {
                tracing::debug!(%tenant, %error, "failed to delete data of a tenant; trying again in a minute");
                failed = Some(error);
            }
            Advance::Progress(tenant) => {
                tracing::debug!(%tenant, "deleted data of a tenant");
                tokio::time::sleep(PAUSE).await;
            }
            Advance::Deleted { tenant, messages, rows } => {
                tracing::info!(
                    event = "tenant_deleted",
                    %tenant,
                    messages,
                    rows,
                    "deleted all data of a tenant"
                );
            }
        }
    }
}
