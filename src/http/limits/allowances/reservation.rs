//! Recipients of quotas that a request is about to use.

use std::sync::Arc;

use chrono::NaiveDate;

use super::Blocks;

/// Reserved recipients. If a reservation is dropped without being settled, its recipients count as used: after an
/// error, the message may have been committed.
#[derive(Debug)]
pub(in crate::http) struct QuotaReservation {
    /// The blocks of each quota that the recipients were taken from: the key's, the tenant's, or both.
    blocks: Vec<Arc<Blocks>>,
    recipients: u64,
    day: NaiveDate,
}

impl QuotaReservation {
    pub(super) fn new(recipients: u64, day: NaiveDate) -> Self {
        Self { blocks: Vec::new(), recipients, day }
    }

    /// Adds a quota that the recipients were taken from.
    pub(super) fn add(&mut self, blocks: Arc<Blocks>) {
        self.blocks.push(blocks);
    }
}

/// Ends a reservation, if there is one, and returns the recipients beyond `used` to the quotas. If `used` is unknown,
/// all recipients count as used.
pub(in crate::http) fn settle(reservation: Option<QuotaReservation>, used: Option<usize>) {
    if let Some((QuotaReservation { blocks, recipients, day }, used)) = reservation.zip(used) {
        for blocks in blocks {
            blocks.quota.lock().put_back(recipients.saturating_sub(used as u64), day);
        }
    }
}
