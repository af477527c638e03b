//! The time range of statistics: consecutive time spans of one step.

use chrono::{DateTime, TimeDelta, Utc};

use super::Step;

/// Maximum number of time spans in a range.
pub const MAX_POINTS: i64 = 2_880;

/// Consecutive time spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The length of each time span.
    pub step: Step,
    /// The start of the first time span.
    pub since: DateTime<Utc>,
    /// The end of the last time span.
    pub until: DateTime<Utc>,
}

/// Why there is no such range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeError {
    /// It ends before it starts, or has no length.
    Empty,
    /// It has this many time spans.
    TooLong(i64),
    /// Its start is earlier than this time, before which the time spans were deleted.
    TooOld(DateTime<Utc>),
}

impl Range {
    /// Creates the range of the time spans that contain the times from `since` to `until`. Without `until`, it ends now;
    /// without `since`, it is an hour of minutes, a day of hours or 30 days.
    pub fn new(
        step: Step,
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<Self, RangeError> {
        let end = until.unwrap_or(now);
        let default = match step {
            Step::Minute => TimeDelta::hours(1),
            Step::Hour => TimeDelta::hours(24),
            Step::Day => TimeDelta::days(30),
        };
        let start = since.unwrap_or(end - default);
        if end <= start {
            return Err(RangeError::Empty);
        }
        // A range whose ends are not aligned has one more time span, which does not count against the limit.
        let (length, whole) = (step.length().num_milliseconds(), (end - start).num_milliseconds());
        let points = (whole + length - 1) / length;
        if points > MAX_POINTS {
            return Err(RangeError::TooLong(points));
        }
        // The current time span is included even if it has just begun.
        let until = until.map_or_else(|| step.floor(now) + step.length(), |until| ceil(step, until));
        let range = Self { step, since: step.floor(start), until };
        match step.readable_from(now) {
            Some(from) if range.since < from => Err(RangeError::TooOld(from)),
            _ => Ok(range),
        }
    }

    /// Returns the starts of all time spans.
    pub fn starts(self) -> impl Iterator<Item = DateTime<Utc>> {
        std::iter::successors(Some(self.since), move |start| Some(*start + self.step.length()))
            .take_while(move |start| *start < self.until)
    }

    /// Returns the number of time spans.
    pub fn points(self) -> usize {
        let points = (self.until - self.since).num_seconds() / self.step.length().num_seconds();
        usize::try_from(points).unwrap_or(0)
    }
}

fn ceil(step: Step, time: DateTime<Utc>) -> DateTime<Utc> {
    let floor = step.floor(time);
    if floor == time { time } else { floor + step.length() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn range(step: Step, since: Option<&str>, until: Option<&str>) -> Result<Range, RangeError> {
        Range::new(step, since.map(at), until.map(at), at("2026-11-23T12:34:56Z"))
    }

    #[test]
    fn defaults_end_now_and_are_aligned() {
        for (step, since, until, points) in [
            (Step::Minute, "2026-11-23T11:34:00Z", "2026-11-23T12:35:00Z", 61),
            (Step::Hour, "2026-11-22T12:00:00Z", "2026-11-23T13:00:00Z", 25),
            (Step::Day, "2026-10-24T00:00:00Z", "2026-11-24T00:00:00Z", 31),
        ] {
            let range = range(step, None, None).unwrap();
            assert_eq!((range.since, range.until), (at(since), at(until)));
            let starts: Vec<_> = range.starts().collect();
            assert_eq!((starts.len(), range.points()), (points, points));
            assert_eq!((starts[0], starts[points - 1] + step.length()), (range.since, range.until));
        }
    }

    #[test]
    fn two_days_of_minutes_can_be_read() {
        let range = range(Step::Minute, Some("2026-11-21T12:34:56Z"), None).unwrap();
        assert_eq!(range.points(), 2_881);
    }

    #[test]
    fn two_days_of_minutes_can_still_be_read_in_the_next_minute() {
        let since = at("2026-11-21T12:34:56Z");
        let range = |now: &str| Range::new(Step::Minute, Some(since), Some(at("2026-11-23T12:34:56Z")), at(now));
        assert_eq!(range("2026-11-23T12:35:01Z").unwrap().since, at("2026-11-21T12:34:00Z"));
        assert!(matches!(range("2026-11-23T12:36:00Z"), Err(RangeError::TooOld(_))));
    }

    #[test]
    fn impossible_ranges_are_refused() {
        assert_eq!(range(Step::Hour, Some("2026-11-23T13:00:00Z"), None), Err(RangeError::Empty));
        let long = range(Step::Minute, Some("2026-11-20T00:00:00Z"), Some("2026-11-23T00:00:00Z"));
        assert_eq!(long, Err(RangeError::TooLong(4_320)));
        let old = range(Step::Minute, Some("2026-11-20T00:00:00Z"), Some("2026-11-20T01:00:00Z"));
        assert_eq!(old, Err(RangeError::TooOld(at("2026-11-21T12:33:00Z"))));
        assert!(range(Step::Day, Some("2020-01-01T00:00:00Z"), None).is_ok());
    }
}
