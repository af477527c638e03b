//! Finds recipients that are leased to this worker without its knowledge: a claim was committed and its answer lost.
//! Nobody else may take them while we live.

use std::sync::Arc;
use std::time::Duration;

use super::{Parts, give_back};
use crate::db::DbError;
use crate::db::queue::{self, Claimed};

/// Longer than any claim may take: what is leased and not in hand before and after is nobody's.
const WAIT: Duration = Duration::from_secs(20);

pub(super) async fn run(parts: Arc<Parts>) {
    loop {
        parts.suspect.notified().await;
        tokio::time::sleep(WAIT).await;
        while let Err(error) = once(&parts).await {
            tracing::warn!(%error, "could not look for recipients whose claim was not answered");
            tokio::time::sleep(WAIT).await;
        }
    }
}

async fn once(parts: &Parts) -> Result<(), DbError> {
    let Some(worker) = parts.identity.current() else { return Ok(()) };
    let unknown = |rows: Vec<Claimed>| rows.into_iter().filter(|row| !parts.hands.has(row)).collect::<Vec<_>>();
    let lost = unknown(queue::leased(&parts.db, worker).await?);
    if lost.is_empty() {
        return Ok(());
    }
    tokio::time::sleep(WAIT).await;
    let lost = unknown(lost);
    tracing::warn!(lost = lost.len(), "giving back recipients whose claim was not answered");
    give_back::release(&parts.db, &parts.hands, lost).await;
    Ok(())
}
