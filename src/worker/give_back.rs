//! Gives claimed recipients back to the queue, for as long as it takes: while we live, nobody else may take them.

use std::time::Duration;

use super::hands::Hands;
use crate::db::Db;
use crate::db::queue::{self, Claimed};

/// Between two tries, and before the first where the database was the reason: what is free again at once would be
/// claimed again at once.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

/// Frees them without an attempt.
pub(super) async fn release(db: &Db, hands: &Hands, mut claimed: Vec<Claimed>) {
    while !claimed.is_empty() {
        for row in &mut claimed {
            hands.refresh(row);
        }
        match queue::release(db, &claimed).await {
            Ok(()) => claimed = hands.let_go(claimed.iter()),
            Err(error) => {
                tracing::debug!(%error, "could not give back what was claimed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Holds them for an operator, with the reason.
pub(super) async fn hold(db: &Db, hands: &Hands, mut claimed: Vec<Claimed>, reason: &str) {
    tracing::error!(rows = claimed.len(), reason, "recipients are held for an operator");
    while !claimed.is_empty() {
        for row in &mut claimed {
            hands.refresh(row);
        }
        match queue::hold(db, &claimed, reason).await {
            Ok(()) => claimed = hands.let_go(claimed.iter()),
            Err(error) => {
                tracing::debug!(%error, "could not hold what was claimed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
