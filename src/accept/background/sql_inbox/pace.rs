//! When a process looks for enqueued messages, and where.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use crate::accept::background::poll_loop::Next;
use crate::db::messages::sql_inbox::MAX_ROWS;

/// Poll interval while rows come in: a message waits for at most this time.
const BUSY_INTERVAL: Duration = Duration::from_millis(100);
/// How long after the last row the short interval lasts.
const BUSY_FOR: Duration = Duration::from_mins(1);
/// Interval of the polls that begin with the oldest row.
const FULL_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the check for rows of deleted tenants.
const ORPHANS_INTERVAL: Duration = Duration::from_mins(1);
/// A poll takes at most this part of the time: a long transaction keeps the versions of deleted rows, which polls read.
const PAUSE_FACTOR: u32 = 4;
/// How long a claim lasts at least. If the process dies, another one continues after this time.
const MIN_CLAIM: Duration = Duration::from_secs(5);
/// How long a claim lasts at most.
const MAX_CLAIM: Duration = Duration::from_mins(1);
/// How many times longer than the last turn a claim lasts. If accepting rows took longer than their claim, another process
/// would claim them meanwhile, and neither could insert them.
const CLAIM_FACTOR: u32 = 4;
/// Age of the oldest row that a poll for new rows looks at.
pub(super) const NEW: TimeDelta = TimeDelta::seconds(10);

/// What a poll looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scan {
    /// New rows.
    New,
    /// All rows.
    All,
    /// All rows, after rows of deleted tenants have been removed.
    AndOrphans,
}

/// The times of the polls.
#[derive(Debug)]
pub(super) struct Pace {
    next_full: Instant,
    next_orphans: Instant,
    busy_until: Option<Instant>,
    last_duration: Duration,
    /// How long it took to claim the last rows and to accept them.
    last_turn: Duration,
    is_full: bool,
    /// Whether the last poll of all rows left some.
    has_old_rows: bool,
    /// Whether the last poll was one of new rows.
    was_new: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next_full: now,
            next_orphans: now + ORPHANS_INTERVAL,
            busy_until: None,
            last_duration: Duration::ZERO,
            last_turn: Duration::ZERO,
            is_full: false,
            has_old_rows: false,
            was_new: false,
        }
    }

    /// Returns what the next poll looks at.
    pub(super) fn next(&mut self, now: Instant) -> Scan {
        if now >= self.next_orphans {
            self.next_orphans = now + ORPHANS_INTERVAL;
            self.next_full = now + FULL_INTERVAL;
            return Scan::AndOrphans;
        }
        // Old rows, as after an outage, take turns with new ones.
        if now >= self.next_full || (self.has_old_rows && self.was_new) {
            self.next_full = now + FULL_INTERVAL;
            return Scan::All;
        }
        Scan::New
    }

    /// Notes the number of rows that a poll claimed, and how long it took.
    pub(super) fn note(&mut self, scan: Scan, rows: usize, duration: Duration, now: Instant) {
        // Payloads may be so large that a poll claims fewer rows than it could; then the next one comes soon.
        self.is_full = i64::try_from(rows).is_ok_and(|rows| rows >= MAX_ROWS);
        self.was_new = scan == Scan::New;
        if !self.was_new {
            self.has_old_rows = self.is_full;
            self.is_full = false;
        }
        self.last_duration = duration;
        if rows > 0 {
            self.busy_until = Some(now + BUSY_FOR);
        }
    }

    /// Notes how long it took to claim rows and to accept them.
    pub(super) fn note_turn(&mut self, duration: Duration) {
        self.last_turn = duration;
    }

    /// Returns how long the next claim lasts.
    pub(super) fn claim(&self) -> Duration {
        (self.last_turn * CLAIM_FACTOR).clamp(MIN_CLAIM, MAX_CLAIM)
    }

    /// Makes the next poll one of all rows: there is a row, perhaps an old one.
    pub(super) fn wake(&mut self, now: Instant) {
        self.next_full = now;
    }

    /// Returns when the next poll follows.
    pub(super) fn after(&mut self, now: Instant) -> Next {
        if std::mem::take(&mut self.is_full) || self.has_old_rows {
            return Next::Now;
        }
        let after_last = self.last_duration * PAUSE_FACTOR;
        if self.busy_until.is_some_and(|until| now < until) {
            return Next::Sleep(BUSY_INTERVAL.max(after_last));
        }
        Next::UntilWoken(self.next_orphans.saturating_duration_since(now).max(after_last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many rows as a poll claims at most.
    const FULL: usize = 200;
    const BUSY: Next = Next::Sleep(BUSY_INTERVAL);
    const AT_ONCE: Next = Next::Now;

    fn poll(pace: &mut Pace, rows: usize, now: Instant) -> (Scan, Next) {
        let scan = pace.next(now);
        pace.note(scan, rows, Duration::from_millis(1), now);
        (scan, pace.after(now))
    }

    #[test]
    fn polls_are_frequent_for_a_minute_after_a_row() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut pace = Pace::new(start);
        assert_eq!(poll(&mut pace, 0, start), (Scan::All, Next::UntilWoken(ORPHANS_INTERVAL)));
        assert_eq!(poll(&mut pace, 1, start + second), (Scan::All, BUSY));
        assert_eq!(poll(&mut pace, 0, start + second + BUSY_INTERVAL), (Scan::New, BUSY));
        assert_eq!(poll(&mut pace, 0, start + second * 2), (Scan::All, BUSY));
        assert_eq!(poll(&mut pace, 0, start + second * 62), (Scan::AndOrphans, Next::UntilWoken(ORPHANS_INTERVAL)));
    }

    #[test]
    fn idle_task_that_is_woken_looks_at_all_rows() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        poll(&mut pace, 0, now);
        let soon = now + Duration::from_millis(300);
        pace.wake(soon);
        assert_eq!(poll(&mut pace, 1, soon), (Scan::All, BUSY));
    }

    #[test]
    fn old_rows_take_turns_with_new_ones() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        assert_eq!(poll(&mut pace, FULL, now), (Scan::All, AT_ONCE));
        assert_eq!(poll(&mut pace, 0, now), (Scan::New, AT_ONCE));
        assert_eq!(poll(&mut pace, 3, now), (Scan::All, BUSY));
        assert_eq!(poll(&mut pace, FULL, now), (Scan::New, AT_ONCE));
        assert_eq!(poll(&mut pace, 0, now), (Scan::New, BUSY));
    }

    #[test]
    fn claim_lasts_longer_than_accepting_its_rows() {
        let mut pace = Pace::new(Instant::now());
        assert_eq!(pace.claim(), MIN_CLAIM);
        for (turn, claim) in [(1, 5), (10, 40), (20, 60), (0, 5)] {
            pace.note_turn(Duration::from_secs(turn));
            assert_eq!(pace.claim(), Duration::from_secs(claim), "{turn}");
        }
    }

    #[test]
    fn slow_polls_are_rare() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let scan = pace.next(now);
        pace.note(scan, 1, Duration::from_millis(200), now);
        assert_eq!(pace.after(now), Next::Sleep(Duration::from_millis(800)));
    }
}
