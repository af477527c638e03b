//! Recipients of a quota that a request is about to use.

use std::sync::Arc;

use chrono::NaiveDate;

use super::Blocks;

/// Reserved recipients. If a reservation is dropped without being settled, its recipients count as used: after an
/// error, the message may have been committed.
#[derive(Debug)]
pub(in crate::http) struct QuotaReservation {
    pub(super) blocks: Arc<Blocks>,
    pub(super) recipients: u64,
    pub(super) day: NaiveDate,
}

/// Ends a reservation, if there is one, and returns the recipients beyond `used` to the quota. If `used` is unknown,
/// all recipients count as used.
pub(in crate::http) fn settle(reservation: Option<QuotaReservation>, used: Option<usize>) {
    if let Some((QuotaReservation { blocks, recipients, day }, used)) = reservation.zip(used) {
        blocks.quota.lock().put_back(recipients.saturating_sub(used as u64), day);
    }
}
