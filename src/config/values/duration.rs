//! Durations in human-readable form: `90s`, `5m`, `1h30m`, `3d`, `250ms`. A bare number is in seconds.
//!
//! For use as `#[serde(with = "crate::config::values::duration")]`, with `::list` appended for a `Vec`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

/// Units, largest first, with their length in milliseconds.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A duration in human-readable form, displayed in the largest unit that divides it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::config) struct Human(pub Duration);

/// The error for a text that is not a duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a duration such as 90s, 5m, 1h30m or 3d")]
pub(in crate::config) struct NotADuration(String);

impl FromStr for Human {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        milliseconds(text.trim()).map(|ms| Self(Duration::from_millis(ms))).ok_or_else(|| NotADuration(text.into()))
    }
}

/// Parses a duration, for use outside of the configuration.
pub fn duration(text: &str) -> Option<Duration> {
    text.parse::<Human>().ok().map(|human| human.0)
}

/// Formats a duration in the largest unit that divides it.
pub fn duration_text(duration: Duration) -> String {
    Human(duration).to_string()
}

/// Parses a duration. Returns `None` if the text is not a duration or exceeds 500 million years.
fn milliseconds(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1_000);
    }
    let mut rest = text;
    let mut sum = 0_u64;
    loop {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let (_, length) = UNITS.iter().find(|(name, _)| *name == unit)?;
        sum = sum.checked_add(digits.parse::<u64>().ok()?.checked_mul(*length)?)?;
        if tail.is_empty() {
            return Some(sum);
        }
        rest = tail;
    }
}

impl fmt::Display for Human {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms == 0 {
            return f.write_str("0s");
        }
        let exact = UNITS.iter().find(|(_, length)| ms.is_multiple_of(u128::from(*length)));
        let (unit, length) = exact.copied().unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / u128::from(length))
    }
}

impl Serialize for Human {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Human {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(HumanVisitor)
    }
}

struct HumanVisitor;

impl Visitor<'_> for HumanVisitor {
    type Value = Human;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"90s\", \"5m\", \"1h30m\" or \"3d\"")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Human, E> {
        Ok(Human(Duration::from_secs(seconds)))
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Human, E> {
        let negative = || E::invalid_value(serde::de::Unexpected::Signed(seconds), &self);
        u64::try_from(seconds).map_err(|_| negative()).and_then(|seconds| self.visit_u64(seconds))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Human, E> {
        text.parse().map_err(E::custom)
    }
}

pub(in crate::config) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    Human(*duration).serialize(serializer)
}

pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    Human::deserialize(deserializer).map(|human| human.0)
}

/// Serialization of a list of durations.
pub(in crate::config) mod list {
    use super::{Deserialize, Deserializer, Duration, Human, Serializer};

    pub(in crate::config) fn serialize<S: Serializer>(list: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(list.iter().copied().map(Human))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        Ok(Vec::<Human>::deserialize(deserializer)?.into_iter().map(|human| human.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(text: &str) -> Option<f64> {
        text.parse::<Human>().ok().map(|human| human.0.as_secs_f64())
    }

    #[test]
    fn parses_human_readable_durations() {
        let read = ["90s", "5m", "4h", "3d", "1h30m", "250ms", "300", " 1m ", "0s"].map(seconds);
        assert_eq!(read, [90.0, 300.0, 14_400.0, 259_200.0, 5_400.0, 0.25, 300.0, 60.0, 0.0].map(Some));
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "m", "5 m", "-1s", "1.5h", "5min", "1h30", "1µs", "99999999999999999999s", "213503982335d"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    #[test]
    fn displays_the_largest_unit_that_divides() {
        let displayed = [0, 620, 60, 5_400, 259_200].map(|s| Human(Duration::from_secs(s)).to_string());
        assert_eq!(displayed, ["0s", "620s", "1m", "90m", "3d"]);
        assert_eq!(Human(Duration::from_millis(1_500)).to_string(), "1500ms");
    }

    proptest::proptest! {
        #[test]
        fn displayed_duration_is_parsed_back(ms in 0..u64::MAX / 2, noise in ".{0,12}") {
            let human = Human(Duration::from_millis(ms));
            proptest::prop_assert_eq!(human.to_string().parse(), Ok(human));
            let _ = noise.parse::<Human>();
        }
    }
}
