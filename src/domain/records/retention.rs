//! How long data is kept: the periods, and the weeks by which most data is deleted.

use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::domain::id::MessageId;
use crate::domain::words::words;

words! {
    /// A kind of data that is deleted by weeks.
    pub enum Class as "RetentionClass" {
        /// Bodies, headers, attachments and template variables.
        Content = "content",
        /// Messages and their recipients.
        Messages = "messages",
        /// Events.
        Events = "events",
        /// The log of webhook posts.
        WebhookLog = "webhook_log",
    }
}

impl Class {
    /// Returns the partitioned tables of the class, in the order in which they are locked.
    pub const fn tables(self) -> &'static [&'static str] {
        match self {
            Self::Content => &["contents", "blob_references"],
            Self::Messages => &["messages", "recipients", "custom_message_ids"],
            Self::Events => &["events"],
            Self::WebhookLog => &["webhook_attempts"],
        }
    }
}

/// How long data is kept; `None` is forever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period(pub Option<Duration>);

impl Period {
    /// Data is never deleted because of its age.
    pub const FOREVER: Self = Self(None);

    /// Returns the length in seconds; infinity for forever.
    pub fn seconds(self) -> f64 {
        self.0.map_or(f64::INFINITY, |period| period.as_secs_f64())
    }

    /// Returns the time before which data is too old; `None` if it never is.
    pub fn cutoff(self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        now.checked_sub_signed(TimeDelta::from_std(self.0?).ok()?)
    }

    /// Returns whether this period is longer than the other.
    pub fn exceeds(self, other: Self) -> bool {
        self.seconds() > other.seconds()
    }
}

/// How long each class is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Periods {
    /// Content, unless the stream has its own period.
    pub content: Period,
    /// Messages and recipients.
    pub messages: Period,
    /// Events.
    pub events: Period,
    /// The log of webhook posts.
    pub webhook_log: Period,
    /// Idempotency keys, which are kept no longer than their message.
    pub idempotency: Period,
    /// The audit log.
    pub audit: Period,
    /// Actions on many messages that have ended.
    pub actions: Period,
    /// Received messages.
    pub received: Period,
    /// How long after the last attempt a bounce may come to a signed return path; zero without return paths.
    pub return_path: Duration,
}

impl Periods {
    /// Returns the period of a class.
    pub fn get(&self, class: Class) -> Period {
        match class {
            Class::Content => self.content,
            Class::Messages => self.messages,
            Class::Events => self.events,
            Class::WebhookLog => self.webhook_log,
        }
    }
}

/// A week, as the partitions have it: from Monday 0:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Week(DateTime<Utc>);

impl Week {
    /// Returns the week of a moment.
    pub fn containing(moment: DateTime<Utc>) -> Self {
        let monday = moment.date_naive() - TimeDelta::days(i64::from(moment.weekday().num_days_from_monday()));
        Self(monday.and_time(NaiveTime::MIN).and_utc())
    }

    /// Returns the week whose partition of `table` has this name, such as `events_20261123`.
    pub fn of_partition(table: &str, name: &str) -> Option<Self> {
        let digits = name.strip_prefix(table)?.strip_prefix('_')?;
        let monday = chrono::NaiveDate::parse_from_str(digits, "%Y%m%d").ok()?;
        let start = monday.and_time(NaiveTime::MIN).and_utc();
        (digits.len() == 8 && Self::containing(start).0 == start).then_some(Self(start))
    }

    /// Returns its first moment.
    pub fn start(self) -> DateTime<Utc> {
        self.0
    }

    /// Returns the first moment after it.
    pub fn end(self) -> DateTime<Utc> {
        self.0 + TimeDelta::weeks(1)
    }

    /// Returns the smallest id with a time in this week, and the smallest one after it.
    pub fn ids(self) -> (Uuid, Uuid) {
        (MessageId::first_at(self.start()).0, MessageId::first_at(self.end()).0)
    }

    /// Returns how many seconds ago the week ended; negative if it has not.
    pub fn age(self, now: DateTime<Utc>) -> f64 {
        (now - self.end()).as_seconds_f64()
    }
}

impl std::fmt::Display for Week {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0.format("%Y-%m-%d").to_string())
    }
}

impl serde::Serialize for Week {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn weeks_begin_on_monday() {
        for moment in ["2026-11-23T00:00:00Z", "2026-11-25T12:00:00Z", "2026-11-29T23:59:59.999Z"] {
            let week = Week::containing(at(moment));
            assert_eq!(
                (week.start(), week.end()),
                (at("2026-11-23T00:00:00Z"), at("2026-11-30T00:00:00Z")),
                "{moment}"
            );
        }
    }

    #[test]
    fn partition_names_are_weeks() {
        let week = Week::containing(at("2026-11-25T12:00:00Z"));
        assert_eq!(Week::of_partition("events", "events_20261123"), Some(week));
        for name in ["events_default", "events_20261124", "messages_20261123", "events_2026112", "events20261123"] {
            assert_eq!(Week::of_partition("events", name), None, "{name}");
        }
    }

    #[test]
    fn week_is_old_enough_when_its_last_moment_is() {
        let (week, period) = (Week::containing(at("2026-11-25T12:00:00Z")), Period(Some(Duration::from_hours(48))));
        assert!(week.age(at("2026-12-01T23:59:59Z")) < period.seconds());
        assert!(week.age(at("2026-12-02T00:00:00Z")) >= period.seconds());
        assert!(week.age(at("2926-12-02T00:00:00Z")) < Period::FOREVER.seconds());
        assert!(Period::FOREVER.exceeds(period) && !period.exceeds(Period::FOREVER));
    }
}
