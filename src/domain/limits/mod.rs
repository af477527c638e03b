//! The settings of lanes and streams that an operator may change: their ranges, and the difference between keeping and
//! clearing a setting.

pub mod connection_share;
pub mod fair_queue;
pub mod fair_share;
pub mod gcra;

use std::ops::RangeInclusive;

/// A request's change to one setting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Change<T> {
    /// The setting is absent from the request and stays.
    #[default]
    Keep,
    /// The setting is `null`: it is removed, and the configuration applies.
    Clear,
    /// The setting gets a new value.
    Set(T),
}

impl<T> Change<T> {
    /// Returns whether the setting changes.
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Keep)
    }

    /// Converts the new value.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Change<U> {
        match self {
            Self::Keep => Change::Keep,
            Self::Clear => Change::Clear,
            Self::Set(value) => Change::Set(convert(value)),
        }
    }

    /// Applies the change to `old`, and returns the resulting value.
    pub fn apply(self, old: Option<T>) -> Option<T> {
        match self {
            Self::Keep => old,
            Self::Clear => None,
            Self::Set(value) => Some(value),
        }
    }

    /// Returns the new value; `None` if the setting is cleared or stays.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Set(value) => Some(value),
            Self::Keep | Self::Clear => None,
        }
    }
}

/// Allowed numbers of concurrent connections of a lane.
pub const CONNECTIONS: RangeInclusive<u64> = 1..=10_000;
/// Allowed numbers of messages per connection.
pub const MESSAGES_PER_CONNECTION: RangeInclusive<u64> = 1..=100_000;
/// Allowed numbers of messages in flight of a stream.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=100_000;
/// Allowed rates in messages per second; the minimum is about one per day.
pub const RATE: RangeInclusive<f64> = 1e-5..=1e6;
/// Allowed priorities of a stream; lower values are sent first.
pub const PRIORITY: RangeInclusive<u64> = 0..=100;
/// Allowed weights of a stream, which determine its share among streams of the same priority.
pub const WEIGHT: RangeInclusive<u64> = 1..=1_000;

/// The limits that are set on a lane, for all replicas together; `None` if none is set. The configuration, the stream
/// and a learned rate can limit the lane too.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneLimits {
    /// Maximum concurrent connections.
    pub connections: Option<i32>,
    /// Maximum messages per second.
    pub rate: Option<f64>,
    /// Maximum messages per connection.
    pub messages_per_connection: Option<i32>,
}

/// Changes to the limits that are set on a lane.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LaneChange {
    /// Maximum concurrent connections.
    pub connections: Change<i32>,
    /// Maximum messages per second.
    pub rate: Change<f64>,
    /// Maximum messages per connection.
    pub messages_per_connection: Change<i32>,
}

/// Changes to a stream, or the settings of a new one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StreamChange {
    /// The priority, 0–100.
    pub priority: Option<i16>,
    /// The weight, 1–1000.
    pub weight: Option<i16>,
    /// Maximum messages in flight.
    pub concurrency: Change<i32>,
    /// Maximum messages per second.
    pub rate: Change<f64>,
    /// The waits between attempts, in seconds.
    pub retry_schedule: Change<Vec<i32>>,
    /// The retry window, in seconds.
    pub retry_window: Change<i32>,
    /// The first wait after greylisting, in seconds.
    pub greylist: Change<i32>,
    /// Whether its messages have an unsubscribe link.
    pub unsubscribe: Option<bool>,
    /// How long its messages keep their content, in seconds; 0 means as long as the messages themselves are kept.
    pub content_retention: Change<i32>,
}
