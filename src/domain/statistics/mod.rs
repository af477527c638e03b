//! Statistics: how events are counted, by step, stream and mailbox provider, and the time ranges that can be read.

pub mod count;
pub mod latency;
pub mod range;

use chrono::{DateTime, TimeDelta, Utc};

use super::words::words;

words! {
    /// The length of the time spans that figures are counted by.
    pub enum Step as "StatisticsStep" {
        /// A minute. Kept for 48 hours.
        Minute = "minute",
        /// An hour. Kept for 366 days.
        Hour = "hour",
        /// A day in UTC. Kept forever.
        Day = "day",
    }
}

impl Step {
    /// Returns the step with this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|step| step.as_str() == word)
    }

    /// Returns the length of the time span.
    pub fn length(self) -> TimeDelta {
        match self {
            Self::Minute => TimeDelta::minutes(1),
            Self::Hour => TimeDelta::hours(1),
            Self::Day => TimeDelta::days(1),
        }
    }

    /// Returns the start of the time span that contains `time`.
    pub fn floor(self, time: DateTime<Utc>) -> DateTime<Utc> {
        let seconds = time.timestamp();
        let start = seconds - seconds.rem_euclid(self.length().num_seconds());
        DateTime::from_timestamp(start, 0).unwrap_or(time)
    }

    /// Returns the start of the oldest time span that can be read at `now`; `None` if all can be. It is one span earlier
    /// than documented, for clients whose clocks are behind.
    pub fn readable_from(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let kept = match self {
            Self::Minute => TimeDelta::hours(48),
            Self::Hour => TimeDelta::days(366),
            Self::Day => return None,
        };
        Some(self.floor(now - kept) - self.length())
    }

    /// Returns the time before which time spans are deleted at `now`, and events are not counted; `None` if all spans are
    /// kept forever. It is a little earlier than [`readable_from`](Self::readable_from), so that no span is deleted while
    /// it is read.
    pub fn deleted_before(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.readable_from(now).map(|from| from - self.length() * 30)
    }
}

words! {
    /// How the figures are grouped into series.
    pub enum GroupBy as "StatisticsGroup" {
        /// A series for each stream.
        Stream = "stream",
        /// A series for each mailbox provider.
        Provider = "provider",
        /// A series for each category of bounces, with only the number of bounces.
        Category = "category",
    }
}

impl GroupBy {
    /// Returns the grouping with this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|group| group.as_str() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_spans_start_at_round_times_in_utc() {
        let time: DateTime<Utc> = "2026-11-23T12:34:56.789Z".parse().unwrap();
        let floors = Step::ALL.map(|step| step.floor(time).to_rfc3339());
        assert_eq!(floors, ["2026-11-23T12:34:00+00:00", "2026-11-23T12:00:00+00:00", "2026-11-23T00:00:00+00:00"]);
        assert!(Step::ALL.iter().all(|step| step.floor(step.floor(time)) == step.floor(time)));
    }

    #[test]
    fn spans_are_deleted_only_after_they_can_no_longer_be_read() {
        let now: DateTime<Utc> = "2026-11-23T12:34:56Z".parse().unwrap();
        for step in [Step::Minute, Step::Hour] {
            assert!(step.deleted_before(now) < step.readable_from(now));
        }
        assert_eq!((Step::Day.readable_from(now), Step::Day.deleted_before(now)), (None, None));
    }
}
