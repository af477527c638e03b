//! A clock that advances only when the test advances it.

use std::sync::Mutex;

use chrono::{DateTime, TimeDelta, Utc};
use postrider::clock::Clock;

#[derive(Debug)]
pub struct TestClock(Mutex<DateTime<Utc>>);

impl TestClock {
    /// Returns a clock with the time at which every test starts.
    pub fn new() -> Self {
        Self(Mutex::new("2026-11-23T12:00:00Z".parse().unwrap()))
    }

    pub fn advance(&self, by: TimeDelta) {
        *self.0.lock().unwrap() += by;
    }

    /// Advances to this time, in the format of the API.
    pub fn advance_to(&self, time: &str) {
        let time = time.parse().unwrap();
        let mut now = self.0.lock().unwrap();
        assert!(time >= *now, "{time} has passed");
        *now = time;
    }

    /// Returns the time after this duration, in the format of the API.
    pub fn text_in(&self, from_now: TimeDelta) -> String {
        (self.now() + from_now).to_rfc3339()
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap()
    }
}

pub fn millis(count: i64) -> TimeDelta {
    TimeDelta::milliseconds(count)
}

pub fn seconds(count: i64) -> TimeDelta {
    TimeDelta::seconds(count)
}

pub fn minutes(count: i64) -> TimeDelta {
    TimeDelta::minutes(count)
}

pub fn hours(count: i64) -> TimeDelta {
    TimeDelta::hours(count)
}
