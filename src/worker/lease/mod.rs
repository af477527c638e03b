//! The leases of this worker: the recipients in flight, the id under which they are leased, and their release.
//!
//! No other worker may send to a recipient while the worker that leased it lives. So every lease has to end: with an
//! outcome ([`crate::worker::outcome`]), with a [`release`], with a search for [`lost_claims`], or, when the worker has
//! died, with the [`rescue`] by another worker.

pub(crate) mod crash_quarantine;
pub(crate) mod heartbeat;
pub(crate) mod identity;
pub(crate) mod in_flight;
pub(crate) mod lost_claims;
pub(crate) mod permits;
pub(crate) mod release;
pub(crate) mod rescue;
pub(crate) mod suspended_tenants;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::SharedClock;
use crate::db::queue::Claimed;
use crate::db::workers::RescuedLeases;
use crate::db::{Db, DbError, RestoreGate};
use crate::domain::provider::Provider;
use crate::group_commit::NewestClaims;
use crate::metrics::METRICS;
use crate::metrics::labels::{Outcome, Route, Stream};
use identity::Identity;
use in_flight::InFlight;
use permits::Permits;
use suspended_tenants::SuspendedTenants;

/// The leases of one worker, shared by all of its tasks.
#[derive(Debug)]
pub(crate) struct Leases {
    pub db: Db,
    pub clock: SharedClock,
    pub identity: Identity,
    pub in_flight: InFlight,
    pub permits: Permits,
    pub suspended_tenants: SuspendedTenants,
    /// Closed while the restore guard holds.
    pub restore_gate: Arc<RestoreGate>,
    /// How long a worker may go without a heartbeat before others release its leases.
    pub duration: Duration,
    /// Starts a claim early.
    pub wake: Arc<Notify>,
    /// Starts the search for lost claims.
    pub claim_lost: Notify,
}

/// Counts the recipients that became uncertain as outcomes of attempts. Their lanes are not known here.
fn count_uncertain(rescued: &RescuedLeases) {
    let uncertain = METRICS.attempts.get((Stream::Other, Route::Mx, Provider::Other, Outcome::Uncertain));
    uncertain.increment(rescued.uncertain as u64);
}

impl NewestClaims for Leases {
    fn adopt_claim(&self, claimed: &mut Claimed) {
        self.in_flight.adopt_claim(claimed);
    }
}

impl Leases {
    /// Returns the id to claim under, or `None` while the lease may have expired, or the restore guard holds.
    pub(crate) fn worker(&self) -> Option<Uuid> {
        self.identity.current().filter(|_| self.restore_gate.is_open())
    }

    /// Returns whether all of these leases are still valid.
    pub(crate) fn are_valid(&self, claimed: &[Claimed]) -> bool {
        claimed.iter().all(|row| self.identity.is_valid(row.lease))
    }

    /// Starts the search for lost claims if a failed claim may have been committed nevertheless.
    pub(crate) fn note_failed_claim(&self, error: &DbError) {
        if error.may_be_done() {
            self.claim_lost.notify_one();
            self.permits.mark_uncertain();
        }
    }
}
