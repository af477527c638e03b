//! Gives claimed recipients back to the queue, for as long as it takes: while we live, nobody else may take them.

use std::time::Duration;

use super::in_flight::Hands;
use crate::db::Db;
use crate::db::queue::{self, Claimed, Rescheduled};
use crate::db::splits;

/// Between two tries, and before the first where the database was the reason: what is free again at once would be
/// claimed again at once.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Frees them without an attempt.
pub(crate) async fn release(db: &Db, hands: &Hands, claimed: Vec<Claimed>) {
    reschedule(db, hands, claimed, Rescheduled::default()).await;
}

/// The same, due at another time.
pub(crate) async fn reschedule(db: &Db, hands: &Hands, mut claimed: Vec<Claimed>, to: Rescheduled<'_>) {
    while !claimed.is_empty() {
        for row in &mut claimed {
            hands.refresh(row);
        }
        match queue::reschedule(db, &claimed, to).await {
            Ok(()) => {
                claimed = hands.let_go(claimed.iter());
                hands.note_given_back();
            }
            Err(error) => {
                tracing::debug!(%error, "could not give back what was claimed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Frees them without an attempt, each into another lane.
pub(crate) async fn into_lanes(db: &Db, hands: &Hands, mut moves: Vec<(Claimed, i64)>) {
    for (row, _) in &mut moves {
        hands.refresh(row);
    }
    let done = splits::move_to_lane(db, &moves).await;
    let rows: Vec<Claimed> = moves.into_iter().map(|(row, _)| row).collect();
    match done {
        Ok(()) => {
            release(db, hands, hands.let_go(rows.iter())).await;
            hands.note_given_back();
        }
        Err(error) => {
            tracing::debug!(%error, "could not put recipients into lanes of their own; giving them back");
            release(db, hands, rows).await;
        }
    }
}

/// Why recipients are held whose message is not there.
pub(crate) const NOT_STORED: &str = "held: its message is not stored";

/// Holds them for an operator, with the reason.
pub(crate) async fn hold(db: &Db, hands: &Hands, mut claimed: Vec<Claimed>, reason: &str) {
    if claimed.is_empty() {
        return;
    }
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
