//! Finds recipients that are leased to this worker without its knowledge: a claim was committed and its answer lost.
//! Nobody else may take them while we live.

use std::sync::Arc;
use std::time::Duration;

use super::{Parts, give_back};
use crate::db::DbError;
use crate::db::queue::{self, Claimed};

/// Looks after one claim that was not answered. A claim that lies in a dead link's buffers reaches Postgres when the
/// link is back, at the latest when Postgres gives up the connection (25 s; see `db`).
const LOOKS: u32 = 4;
/// Added to the longest time that a claim may take before its answer is here.
const MARGIN: Duration = Duration::from_secs(1);

pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        parts.suspect.notified().await;
        for _ in 0..LOOKS {
            while let Err(error) = once(&parts).await {
                tracing::warn!(%error, "could not look for recipients whose claim was not answered");
                tokio::time::sleep(MARGIN).await;
            }
        }
    }
}

/// What is leased and not in hand, before and after any claim of this moment is answered, is nobody's.
async fn once(parts: &Parts) -> Result<(), DbError> {
    let before = unknown(parts).await?;
    tokio::time::sleep(parts.db.limit() + MARGIN).await;
    let lost: Vec<Claimed> = before.into_iter().filter(|row| !parts.hands.has(row)).collect();
    if !lost.is_empty() {
        tracing::warn!(lost = lost.len(), "giving back recipients whose claim was not answered");
        give_back::release(&parts.db, &parts.hands, lost).await;
    }
    Ok(())
}

async fn unknown(parts: &Parts) -> Result<Vec<Claimed>, DbError> {
    let Some(worker) = parts.identity.current() else { return Ok(Vec::new()) };
    let mut rows = queue::leased(&parts.db, worker).await?;
    rows.retain(|row| !parts.hands.has(row));
    Ok(rows)
}
