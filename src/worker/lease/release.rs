//! Releases leased recipients to the queue. Tries again until the database confirms it, because while this worker lives,
//! no other worker may claim them.

use std::time::Duration;

use super::Leases;
use crate::db::lanes;
use crate::db::queue::{self, Claimed, Rescheduled};

/// Pause between two tries. Callers that release recipients because of a failure also pause for this long first:
/// otherwise the recipients would be claimed again at once.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Reason for holding recipients whose message is missing.
pub(crate) const NOT_STORED: &str = "held: its message is not stored";

impl Leases {
    /// Releases recipients that were not attempted.
    pub(crate) async fn release(&self, claimed: Vec<Claimed>) {
        self.reschedule(claimed, Rescheduled::default()).await;
    }

    /// Releases recipients that were not attempted, with a new due time or the reason why they could not be prepared.
    pub(crate) async fn reschedule(&self, mut claimed: Vec<Claimed>, to: Rescheduled<'_>) {
        while !claimed.is_empty() {
            self.adopt_claims(&mut claimed);
            match queue::reschedule(&self.db, &claimed, to).await {
                Ok(()) => {
                    claimed = self.in_flight.release(claimed.iter());
                    self.in_flight.notify_requeued();
                }
                Err(error) => {
                    tracing::debug!(event = "release_failed", %error, "failed to release recipients; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Moves recipients that were not attempted to other lanes, and releases them. If the move fails, they are released in
    /// their current lanes.
    pub(crate) async fn move_to_lanes(&self, mut moves: Vec<(Claimed, i64)>) {
        for (row, _) in &mut moves {
            self.in_flight.adopt_claim(row);
        }
        let moved = lanes::dedicated::move_to_lane(&self.db, &moves).await;
        let rows: Vec<Claimed> = moves.into_iter().map(|(row, _)| row).collect();
        match moved {
            Ok(()) => {
                self.release(self.in_flight.release(rows.iter())).await;
                self.in_flight.notify_requeued();
            }
            Err(error) => {
                tracing::debug!(
                    event = "lane_move_failed",
                    %error,
                    "failed to move recipients to the lanes of their domains; releasing them"
                );
                self.release(rows).await;
            }
        }
    }

    /// Holds recipients for an operator, with a reason.
    pub(crate) async fn hold(&self, mut claimed: Vec<Claimed>, reason: &str) {
        if claimed.is_empty() {
            return;
        }
        tracing::error!(
            event = "recipients_held",
            recipients = claimed.len(),
            reason,
            "holding recipients; retry or cancel their messages through the API"
        );
        while !claimed.is_empty() {
            self.adopt_claims(&mut claimed);
            match queue::hold(&self.db, &claimed, reason).await {
                Ok(()) => claimed = self.in_flight.release(claimed.iter()),
                Err(error) => {
                    tracing::debug!(event = "hold_failed", %error, "failed to hold recipients; trying again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    fn adopt_claims(&self, claimed: &mut [Claimed]) {
        for row in claimed {
            self.in_flight.adopt_claim(row);
        }
    }
}
