//! Gives claimed recipients back to the queue, for as long as it takes: while we live, nobody else may take them.

use std::time::Duration;

use super::in_flight::InFlight;
use crate::db::Db;
use crate::db::queue::{self, Claimed, Rescheduled};
use crate::db::splits;

/// Between two tries, and before the first where the database was the reason: what is free again at once would be
/// claimed again at once.
pub(crate) const PAUSE: Duration = Duration::from_secs(1);

/// Frees them without an attempt.
pub(crate) async fn release(db: &Db, in_flight: &InFlight, claimed: Vec<Claimed>) {
    reschedule(db, in_flight, claimed, Rescheduled::default()).await;
}

/// The same, due at another time.
pub(crate) async fn reschedule(db: &Db, in_flight: &InFlight, mut claimed: Vec<Claimed>, to: Rescheduled<'_>) {
    while !claimed.is_empty() {
        for row in &mut claimed {
            in_flight.adopt_claim(row);
        }
        match queue::reschedule(db, &claimed, to).await {
            Ok(()) => {
                claimed = in_flight.release(claimed.iter());
                in_flight.note_given_back();
            }
            Err(error) => {
                tracing::debug!(%error, "could not give back what was claimed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Frees them without an attempt, each into another lane.
pub(crate) async fn into_lanes(db: &Db, in_flight: &InFlight, mut moves: Vec<(Claimed, i64)>) {
    for (row, _) in &mut moves {
        in_flight.adopt_claim(row);
    }
    let done = splits::move_to_lane(db, &moves).await;
    let rows: Vec<Claimed> = moves.into_iter().map(|(row, _)| row).collect();
    match done {
        Ok(()) => {
            release(db, in_flight, in_flight.release(rows.iter())).await;
            in_flight.note_given_back();
        }
        Err(error) => {
            tracing::debug!(%error, "could not put recipients into lanes of their own; giving them back");
            release(db, in_flight, rows).await;
        }
    }
}

/// Why recipients are held whose message is not there.
pub(crate) const NOT_STORED: &str = "held: its message is not stored";

/// Holds them for an operator, with the reason.
pub(crate) async fn hold(db: &Db, in_flight: &InFlight, mut claimed: Vec<Claimed>, reason: &str) {
    if claimed.is_empty() {
        return;
    }
    tracing::error!(rows = claimed.len(), reason, "recipients are held for an operator");
    while !claimed.is_empty() {
        for row in &mut claimed {
            in_flight.adopt_claim(row);
        }
        match queue::hold(db, &claimed, reason).await {
            Ok(()) => claimed = in_flight.release(claimed.iter()),
            Err(error) => {
                tracing::debug!(%error, "could not hold what was claimed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}
