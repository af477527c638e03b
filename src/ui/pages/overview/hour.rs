//! The figures of the last hour, from `GET /v1/statistics`: nothing is counted when the page is opened.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

use super::traffic::Queue;
use crate::ui::call::with_query;
use crate::ui::error::UiError;
use crate::ui::format::number;
use crate::ui::session::Visitor;

/// What happened in the last hour, in recipients.
#[derive(Debug)]
pub(super) struct Hour {
    pub counts: Counts,
    /// Recipients that wait, when the queue was last measured; `None` if it was not measured in this hour.
    waiting: Option<i64>,
}

impl Hour {
    /// Returns the number of recipients that wait.
    pub(super) fn waiting(&self) -> String {
        self.waiting.map_or_else(|| "–".to_owned(), number)
    }
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Counts {
    pub accepted: i64,
    delivered: i64,
    relayed: i64,
    pub bounced: i64,
    pub suppressed: i64,
    expired: i64,
    uncertain: i64,
}

impl Counts {
    /// Recipients whose message was delivered, or handed to a relay.
    pub(super) fn delivered(self) -> i64 {
        self.delivered + self.relayed
    }

    /// Recipients that may not have the message, although it was not refused.
    pub(super) fn unsure(self) -> i64 {
        self.expired + self.uncertain
    }
}

#[derive(Debug, Deserialize)]
struct Statistics {
    totals: Totals,
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Totals {
    counts: Counts,
}

#[derive(Debug, Deserialize)]
struct Series {
    points: Vec<Point>,
}

#[derive(Debug, Deserialize)]
struct Point {
    queue: Option<Queue>,
}

/// Reads the figures.
pub(super) async fn load(visitor: &Visitor, now: DateTime<Utc>) -> Result<Hour, UiError> {
    let since = (now - TimeDelta::hours(1)).to_rfc3339_opts(SecondsFormat::Millis, true);
    let path = with_query("/v1/statistics", &[("since", &since), ("step", "minute")]);
    let Statistics { totals, series } = visitor.get(&path).await?;
    let mut points = series.iter().flat_map(|series| series.points.iter().rev());
    Ok(Hour { counts: totals.counts, waiting: points.find_map(|point| point.queue).map(|queue| queue.waiting) })
}
