//! Actions on all messages that match a filter: counts the recipients, and starts the action, which a background task of
//! every process with the API works off ([`runner`]).

mod parts;
pub mod runner;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;

use crate::accept::Acceptor;
use crate::db::DbError;
use crate::db::messages::actions::jobs::{self, NewAction};
use crate::db::messages::actions::select::{self, Position, Selection};
use crate::domain::delivery::Status;
use crate::domain::message::action::{ActionFilter, ActionKind};

/// Rows that one statement examines.
const PAGE: i64 = 2_000;
/// Messages that are accepted up to this time after an action belong to it: the clocks of replicas differ.
pub const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::milliseconds(100);
/// Maximum time for counting recipients.
const COUNT_LIMIT: Duration = Duration::from_secs(2);

/// A number of recipients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MatchCount {
    /// The number.
    pub recipients: usize,
    /// Whether all recipients were examined; otherwise the number is a lower bound.
    pub is_exact: bool,
}

/// Returns whether recipients in the queue can match.
fn examines_queue(filter: &ActionFilter) -> bool {
    filter.status != Some(Status::Uncertain)
}

/// Returns whether uncertain recipients can match. They are not in the queue, and thus in no lane.
fn examines_uncertain(kind: ActionKind, filter: &ActionFilter) -> bool {
    kind == ActionKind::Release
        && filter.lane.is_none()
        && filter.status.is_none_or(|status| status == Status::Uncertain)
}

impl Acceptor {
    /// Counts the recipients that an action would apply to now. Takes at most a few seconds.
    pub async fn count_matching(&self, selection: &Selection<'_>, now: DateTime<Utc>) -> Result<MatchCount, DbError> {
        let started = Instant::now();
        let mut recipients = 0;
        let mut position = jobs::start(selection.filter);
        let mut is_examined = !examines_queue(selection.filter);
        while !is_examined {
            if started.elapsed() > COUNT_LIMIT {
                return Ok(MatchCount { recipients, is_exact: false });
            }
            let rows = select::queued(&self.db, selection, position, PAGE, now).await?;
            recipients += rows.iter().filter(|row| row.is_match).count();
            (position, is_examined) = next(rows.last().map(select::ExaminedRow::position), rows.len());
        }
        position = jobs::start(selection.filter);
        is_examined = !examines_uncertain(selection.kind, selection.filter);
        while !is_examined {
            if started.elapsed() > COUNT_LIMIT {
                return Ok(MatchCount { recipients, is_exact: false });
            }
            let rows = select::uncertain(&self.db, selection, position, PAGE).await?;
            recipients += rows.iter().filter(|row| row.stream.is_some()).count();
            (position, is_examined) = next(rows.last().map(select::UncertainRow::position), rows.len());
        }
        Ok(MatchCount { recipients, is_exact: true })
    }

    /// Stores an action and starts to work on it.
    pub async fn start_action(&self, action: &NewAction<'_>) -> Result<(), DbError> {
        jobs::insert(&self.db, action).await?;
        self.action_wake.notify_one();
        Ok(())
    }
}

/// Returns the position after a page of this length, and whether it was the last page.
fn next(last: Option<Position>, length: usize) -> (Position, bool) {
    let is_full = i64::try_from(length).is_ok_and(|length| length >= PAGE);
    (last.unwrap_or_default(), !is_full)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::LaneId;

    #[test]
    fn only_releases_examine_uncertain_recipients() {
        let filter = |status| ActionFilter { status, ..ActionFilter::default() };
        assert!(examines_uncertain(ActionKind::Release, &filter(None)) && examines_queue(&filter(None)));
        assert!(!examines_uncertain(ActionKind::Cancel, &filter(None)));
        assert!(!examines_uncertain(ActionKind::Release, &filter(Some(Status::Deferred))));
        assert!(!examines_queue(&filter(Some(Status::Uncertain))));
        let in_lane = ActionFilter { lane: Some(LaneId(1)), ..ActionFilter::default() };
        assert!(!examines_uncertain(ActionKind::Release, &in_lane));
    }
}
