//! How long data is kept: a duration such as `45d`, or `forever`.

use std::fmt;

use serde::de::{Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};

use super::duration::Human;
use crate::domain::records::retention::Period;

/// The word for no end.
const FOREVER: &str = "forever";

/// Formats a period.
pub fn period_text(period: Period) -> String {
    period.0.map_or_else(|| FOREVER.to_owned(), |duration| Human(duration).to_string())
}

pub(in crate::config) fn serialize<S: Serializer>(period: &Period, serializer: S) -> Result<S::Ok, S::Error> {
    match period.0 {
        None => FOREVER.serialize(serializer),
        Some(duration) => Human(duration).serialize(serializer),
    }
}

pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Period, D::Error> {
    deserializer.deserialize_any(PeriodVisitor)
}

struct PeriodVisitor;

impl Visitor<'_> for PeriodVisitor {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration such as \"45d\", or \"forever\"")
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<Period, E> {
        Ok(Period(Some(std::time::Duration::from_secs(seconds))))
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<Period, E> {
        let negative = || E::invalid_value(serde::de::Unexpected::Signed(seconds), &self);
        u64::try_from(seconds).map_err(|_| negative()).and_then(|seconds| self.visit_u64(seconds))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Period, E> {
        if text.trim() == FOREVER {
            return Ok(Period::FOREVER);
        }
        let not_a_period = || E::custom(format_args!("{text:?} is not a duration such as 45d, or \"forever\""));
        text.parse().map(|Human(duration)| Period(Some(duration))).map_err(|_| not_a_period())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_durations_or_forever() {
        #[derive(Debug, Serialize, serde::Deserialize)]
        struct Row {
            #[serde(with = "crate::config::values::period")]
            kept: Period,
        }
        for (text, shown) in [("\"forever\"", "forever"), ("\"45d\"", "45d"), ("86400", "1d")] {
            let row: Row = toml::from_str(&format!("kept = {text}")).unwrap();
            assert_eq!(period_text(row.kept), shown);
            assert_eq!(toml::to_string(&row).unwrap().trim(), format!("kept = \"{shown}\""));
        }
        let error = toml::from_str::<Row>("kept = \"never\"").unwrap_err().to_string();
        assert!(error.contains("\"never\" is not a duration such as 45d, or \"forever\""), "{error}");
    }
}
