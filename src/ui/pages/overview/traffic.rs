//! The charts of the overview: what happened to messages over time, and how long they took. They are drawn as SVG on the
//! server, from `GET /v1/statistics`.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

use crate::ui::call::with_query;
use crate::ui::error::{Failure, UiError};
use crate::ui::session::Visitor;

/// Height of a chart in its own units. The style sheet sets the height on the page.
const HEIGHT: i64 = 1_000;
/// Width of a time span in the units of the chart, and the gap on each side of its bar.
const SPAN: usize = 10;
const GAP: usize = 1;

/// A time range of the charts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range {
    pub name: &'static str,
    pub title: &'static str,
    /// The length of a time span.
    pub step: &'static str,
    length: TimeDelta,
}

pub(super) const RANGES: [Range; 4] = [
    Range { name: "1h", title: "1 hour", step: "minute", length: TimeDelta::hours(1) },
    Range { name: "24h", title: "24 hours", step: "hour", length: TimeDelta::hours(24) },
    Range { name: "7d", title: "7 days", step: "hour", length: TimeDelta::days(7) },
    Range { name: "30d", title: "30 days", step: "day", length: TimeDelta::days(30) },
];

#[derive(Debug, Deserialize)]
struct Statistics {
    totals: Totals,
    series: Vec<Series>,
}

#[derive(Debug, Deserialize)]
struct Totals {
    counts: Counts,
    latency: Option<Latency>,
}

#[derive(Debug, Deserialize)]
struct Series {
    points: Vec<Point>,
}

/// The figures of one time span.
#[derive(Debug, Deserialize)]
pub(super) struct Point {
    pub at: DateTime<Utc>,
    pub counts: Counts,
    pub latency: Option<Latency>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub accepted: i64,
    delivered: i64,
    relayed: i64,
    pub deferred: i64,
    pub bounced: i64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Latency {
    pub p50_ms: i64,
    pub p95_ms: i64,
}

/// A part of a stacked bar.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bar {
    pub tone: &'static str,
    pub x: usize,
    pub y: i64,
    pub width: usize,
    pub height: i64,
}

/// What the charts show.
#[derive(Debug)]
pub(super) struct Traffic {
    pub range: Range,
    pub totals: Counts,
    pub latency: Option<Latency>,
    points: Vec<Point>,
}

impl Counts {
    /// Recipients whose message was delivered, or handed to a relay.
    pub(super) fn delivered(self) -> i64 {
        self.delivered + self.relayed
    }

    fn highest(self) -> i64 {
        self.accepted.max(self.delivered() + self.deferred + self.bounced)
    }
}

impl Traffic {
    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Returns the time spans in which something happened, newest first.
    pub(super) fn busy_points(&self) -> Vec<&Point> {
        self.points.iter().rev().filter(|point| point.counts.highest() > 0 || point.latency.is_some()).collect()
    }

    pub(super) fn since(&self) -> Option<&DateTime<Utc>> {
        self.points.first().map(|point| &point.at)
    }

    /// Returns the width of a chart.
    pub(super) fn width(&self) -> usize {
        self.points.len() * SPAN
    }

    /// Returns the number at the top of the chart of messages.
    pub(super) fn highest_count(&self) -> i64 {
        self.points.iter().map(|point| point.counts.highest()).max().unwrap_or(0).max(1)
    }

    /// Returns the time at the top of the chart of latencies.
    pub(super) fn highest_ms(&self) -> i64 {
        self.points.iter().filter_map(|point| point.latency).map(|latency| latency.p95_ms).max().unwrap_or(0).max(1)
    }

    /// Returns the bars: delivered at the bottom, then deferred, then bounced.
    pub(super) fn bars(&self) -> Vec<Bar> {
        let highest = self.highest_count();
        let mut bars = Vec::new();
        for (n, point) in self.points.iter().enumerate() {
            let counts = point.counts;
            let mut below = 0;
            for (tone, count) in [("good", counts.delivered()), ("warn", counts.deferred), ("bad", counts.bounced)] {
                let (bottom, top) = (scaled(below, highest), scaled(below + count, highest));
                below += count;
                if top < bottom {
                    bars.push(Bar { tone, x: n * SPAN + GAP, y: top, width: SPAN - 2 * GAP, height: bottom - top });
                }
            }
        }
        bars
    }

    /// Returns the line of accepted recipients, level within each time span.
    pub(super) fn accepted_path(&self) -> String {
        let highest = self.highest_count();
        let mut path = String::new();
        for (n, point) in self.points.iter().enumerate() {
            let step = if n == 0 { "M0 " } else { "V" };
            // Writing to a string cannot fail.
            let _ = write!(path, "{step}{}h{SPAN}", scaled(point.counts.accepted, highest));
        }
        path
    }

    pub(super) fn p50_path(&self) -> String {
        self.latency_path(|latency| latency.p50_ms)
    }

    pub(super) fn p95_path(&self) -> String {
        self.latency_path(|latency| latency.p95_ms)
    }

    /// Returns a line through the middle of the time spans; it is interrupted where nothing was delivered.
    fn latency_path(&self, value: impl Fn(Latency) -> i64) -> String {
        let highest = self.highest_ms();
        let mut path = String::new();
        let mut is_drawing = false;
        for (n, point) in self.points.iter().enumerate() {
            if let Some(latency) = point.latency {
                let (x, y) = (n * SPAN + SPAN / 2, scaled(value(latency), highest));
                // A line without length is a dot, if there is no other point beside it.
                let _ = if is_drawing { write!(path, "L{x} {y}") } else { write!(path, "M{x} {y}h0") };
            }
            is_drawing = point.latency.is_some();
        }
        path
    }
}

/// Returns the height of a value from the top of the chart.
fn scaled(value: i64, highest: i64) -> i64 {
    HEIGHT - value.clamp(0, highest) * HEIGHT / highest
}

/// Reads the figures of a range. `None` if the key may not read them, or if they take too long.
pub(super) async fn load(visitor: &Visitor, name: &str, now: DateTime<Utc>) -> Result<Option<Traffic>, UiError> {
    let range = RANGES.into_iter().find(|range| range.name == name).unwrap_or(RANGES[1]);
    let since = (now - range.length).to_rfc3339_opts(SecondsFormat::Millis, true);
    let path = with_query("/v1/statistics", &[("since", &since), ("step", range.step)]);
    if !visitor.sees_all {
        return Ok(None);
    }
    let statistics: Statistics = match visitor.get(&path).await {
        Err(UiError::Failed(Failure { .. })) => return Ok(None),
        found => found?,
    };
    Ok(Some(Traffic {
        range,
        totals: statistics.totals.counts,
        latency: statistics.totals.latency,
        points: statistics.series.into_iter().next().map(|series| series.points).unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic(points: &[(Counts, Option<i64>)]) -> Traffic {
        let point = |(counts, p95_ms): &(Counts, Option<i64>)| Point {
            at: DateTime::UNIX_EPOCH,
            counts: *counts,
            latency: p95_ms.map(|p95_ms| Latency { p50_ms: p95_ms / 2, p95_ms }),
        };
        let points = points.iter().map(point).collect();
        Traffic { range: RANGES[0], totals: Counts::default(), latency: None, points }
    }

    #[test]
    fn outcomes_are_stacked_below_the_accepted() {
        let counts = Counts { accepted: 10, delivered: 1, relayed: 4, deferred: 0, bounced: 5 };
        let traffic = traffic(&[(Counts::default(), None), (counts, None)]);
        let bars = traffic.bars();
        assert_eq!(bars[0], Bar { tone: "good", x: 11, y: 500, width: 8, height: 500 });
        assert_eq!(bars[1], Bar { tone: "bad", x: 11, y: 0, width: 8, height: 500 });
        assert_eq!((bars.len(), traffic.accepted_path().as_str()), (2, "M0 1000h10V0h10"));
    }

    #[test]
    fn line_of_latencies_is_interrupted_where_there_are_none() {
        let latencies = [Some(100), Some(200), None, Some(50)];
        let points = latencies.map(|latency| (Counts::default(), latency));
        assert_eq!(traffic(&points).p95_path(), "M5 500h0L15 0M35 750h0");
    }

    #[test]
    fn empty_range_has_empty_charts() {
        let traffic = traffic(&[]);
        assert_eq!((traffic.width(), traffic.bars().len(), traffic.p95_path().as_str()), (0, 0, ""));
    }
}
