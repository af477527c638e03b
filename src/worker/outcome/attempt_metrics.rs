//! Counts recorded outcomes.

use super::RecordContext;
use crate::db::queue::Finished;
use crate::domain::bounce;
use crate::domain::delivery::{Status, Transition};
use crate::domain::provider::Provider;
use crate::metrics::METRICS;
use crate::metrics::labels::{Outcome, Route, Stream};

/// Counts the outcomes of a batch that were recorded. Their recipients must still be in flight.
pub(super) fn count(cx: &RecordContext, batch: &[Finished], recorded: &[bool]) {
    let lanes = cx.leases.in_flight.lanes(batch.iter().map(|finished| finished.claimed.lane_id));
    let recorded = batch.iter().zip(recorded).filter(|(_, is_recorded)| **is_recorded);
    for (finished, _) in recorded {
        let lane = lanes.get(&finished.claimed.lane_id);
        let lane = lane.map(|lane| (Stream::from_name(&lane.stream), Route::from_name(&lane.route)));
        // A lane is known as long as one of its recipients is in flight.
        let (stream, route) = lane.unwrap_or((Stream::Other, Route::Mx));
        count_one(finished, stream, route);
    }
}

fn count_one(finished: &Finished, stream: Stream, route: Route) {
    let provider = finished.outcome.as_ref().map_or(Provider::Other, |outcome| outcome.peer.provider());
    let status = finished.transition.status();
    METRICS.attempts.get((stream, route, provider, Outcome::from_status(status))).increment(1);
    // The other metrics have no label of the route, and must not mix simulated attempts with real ones.
    if route == Route::Simulator {
        return;
    }
    let is_attempt = finished.transition != Transition::End(Status::Suppressed);
    let Some(outcome) = finished.outcome.as_ref().filter(|_| is_attempt) else { return };
    METRICS.delivery_attempt.get((stream, provider)).record(outcome.duration);
    if status == Status::Bounced {
        METRICS.bounces.get((stream, provider, bounce::judge(&outcome.reply).category)).increment(1);
    }
    if finished.claimed.attempts == 0 {
        let wait = (finished.started_at - finished.claimed.first_due_at).to_std().unwrap_or_default();
        METRICS.queue_wait.get((stream,)).record(wait);
    }
}
