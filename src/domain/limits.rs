//! What an operator may set for lanes and streams: the ranges, and the difference between keeping and clearing a
//! setting.

use std::ops::RangeInclusive;

/// A request's change to one setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// The setting is absent from the request and stays.
    #[default]
    Keep,
    /// `null`: the setting is removed, and the configuration applies.
    Clear,
    /// A new value.
    Set(T),
}

impl<T> Change<T> {
    /// Returns whether the setting changes.
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Keep)
    }

    /// Returns the new value; `None` if the setting is cleared or stays.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

/// Connections of one lane at one time.
pub const CONNECTIONS: RangeInclusive<u64> = 1..=10_000;
/// Messages per connection.
pub const MAILS_PER_CONNECTION: RangeInclusive<u64> = 1..=100_000;
/// Messages of one stream in flight at one time.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=100_000;
/// Messages per second; the minimum is about one per day.
pub const RATE: RangeInclusive<f64> = 1e-5..=1e6;
/// A stream's priority; lower is sent first.
pub const PRIORITY: RangeInclusive<u64> = 0..=100;
/// A stream's share among those of its priority.
pub const WEIGHT: RangeInclusive<u64> = 1..=1_000;

/// A lane's own limits, over all replicas together; `None` if it has none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneLimits {
    /// Connections at one time.
    pub connections: Option<i32>,
    /// Messages per second.
    pub rate: Option<f64>,
    /// Messages per connection.
    pub mails_per_connection: Option<i32>,
}

/// Changes to a lane's own limits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneChange {
    /// Connections at one time.
    pub connections: Change<i32>,
    /// Messages per second.
    pub rate: Change<f64>,
    /// Messages per connection.
    pub mails_per_connection: Change<i32>,
}

/// Changes to a stream, or the settings of a new one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamChange {
    /// 0–100.
    pub priority: Option<i16>,
    /// 1–1000.
    pub weight: Option<i16>,
    /// Messages in flight at one time.
    pub concurrency: Change<i32>,
    /// Messages per second.
    pub rate: Change<f64>,
    /// Seconds.
    pub retry_schedule: Change<Vec<i32>>,
    /// Seconds.
    pub retry_window: Change<i32>,
    /// Seconds.
    pub greylist: Change<i32>,
    /// Whether its messages have an unsubscribe link.
    pub unsubscribe: Option<bool>,
}
