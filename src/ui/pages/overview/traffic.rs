//! The charts of the overview: what happened to messages over time, and how long they took. They are drawn as SVG on the
//! server, from `GET /v1/statistics`.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;

use crate::ui::call::with_query;
use crate::ui::error::{Failure, UiError};
use crate::ui::format::number;
use crate::ui::session::Visitor;

mod axis;

use axis::Tick;

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
    #[serde(default)]
    bounces: Vec<Bounces>,
    latency: Option<Latency>,
}

/// Bounces of one category.
#[derive(Debug, Deserialize)]
pub(super) struct Bounces {
    pub category: String,
    pub count: i64,
}

#[derive(Debug, Deserialize)]
struct Series {
    name: Option<String>,
    totals: Totals,
    points: Vec<Point>,
}

/// The queue in a time span, at its highest.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Queue {
    pub waiting: i64,
    pub due: i64,
    pub oldest_due_seconds: i64,
}

/// The figures of one mailbox provider.
#[derive(Debug)]
pub(super) struct Provider {
    pub name: String,
    pub counts: Counts,
}

/// The figures of one time span.
#[derive(Debug, Deserialize)]
pub(super) struct Point {
    pub at: DateTime<Utc>,
    pub counts: Counts,
    pub latency: Option<Latency>,
    pub queue: Option<Queue>,
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[serde(default)]
pub(super) struct Counts {
    pub accepted: i64,
    delivered: i64,
    relayed: i64,
    pub deferred: i64,
    pub bounced: i64,
    pub complained: i64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the names of the API's fields")]
pub(super) struct Latency {
    pub p50_ms: i64,
    pub p95_ms: i64,
    pub p99_ms: i64,
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
    pub bounces: Vec<Bounces>,
    /// Empty also if they could not be read in time.
    pub providers: Vec<Provider>,
    points: Vec<Point>,
}

impl Counts {
    /// Returns the complaints per 10,000 delivered recipients; `None` if nothing was delivered.
    fn complaints_per_ten_thousand(self) -> Option<i64> {
        let delivered = self.delivered();
        (delivered > 0).then(|| self.complained.saturating_mul(10_000) / delivered)
    }

    /// Returns the share of complaints in percent.
    pub(super) fn complaint_rate(self) -> String {
        self.complaints_per_ten_thousand()
            .map_or_else(|| "–".to_owned(), |rate| format!("{}.{:02} %", rate / 100, rate % 100))
    }

    /// Returns the colour of the share of complaints. Large providers ask for less than 0.1 %, and refuse mail from 0.3 % on.
    pub(super) fn complaint_tone(self) -> &'static str {
        match self.complaints_per_ten_thousand().unwrap_or(0) {
            30.. => "bad",
            10.. => "warn",
            _ => "good",
        }
    }

    /// Recipients whose message was delivered, or handed to a relay.
    pub(super) fn delivered(self) -> i64 {
        self.delivered + self.relayed
    }

    fn highest(self) -> i64 {
        self.accepted.max(self.delivered() + self.deferred + self.bounced)
    }
}

impl Traffic {
    /// Returns the queue when it was last measured.
    pub(super) fn queue(&self) -> Option<Queue> {
        self.points.iter().rev().find_map(|point| point.queue)
    }

    pub(super) fn points(&self) -> &[Point] {
        &self.points
    }

    /// Returns the time spans in which something happened, newest first.
    pub(super) fn busy_points(&self) -> Vec<&Point> {
        self.points.iter().rev().filter(|point| point.counts.highest() > 0 || point.latency.is_some()).collect()
    }

    /// Returns the width of a chart.
    pub(super) fn width(&self) -> usize {
        self.points.len() * SPAN
    }

    /// Returns the number at the top of the chart of messages.
    fn highest_count(&self) -> i64 {
        axis::top_of_counts(self.points.iter().map(|point| point.counts.highest()).max().unwrap_or(0))
    }

    /// Returns the time at the top of the chart of latencies.
    fn highest_ms(&self) -> i64 {
        let latencies = self.points.iter().filter_map(|point| point.latency);
        axis::top_of_times(latencies.map(|latency| latency.p95_ms).max().unwrap_or(0))
    }

    /// Returns the numbers beside the grid of the chart of messages, from the top.
    pub(super) fn count_scale(&self) -> Vec<String> {
        axis::scale(self.highest_count()).map(number).collect()
    }

    /// Returns the times beside the grid of the chart of latencies, from the top.
    pub(super) fn latency_scale(&self) -> Vec<String> {
        axis::scale(self.highest_ms()).map(axis::time_text).collect()
    }

    /// Returns the lines of the grid.
    pub(super) fn grid_path(&self) -> String {
        let mut path = String::new();
        for y in axis::scale(HEIGHT) {
            // Writing to a string cannot fail.
            let _ = write!(path, "M0 {y}h{}", self.width());
        }
        path
    }

    /// Returns the times below the charts.
    pub(super) fn ticks(&self) -> Vec<Tick> {
        let times: Vec<_> = self.points.iter().map(|point| point.at).collect();
        axis::ticks(self.range.length, &times)
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
    let path = with_query("/v1/statistics", &[("since", &since), ("step", range.step), ("group_by", "provider")]);
    let providers: Vec<Series> = match visitor.get::<Statistics>(&path).await {
        Err(UiError::Failed(Failure { .. })) => Vec::new(),
        found => found?.series,
    };
    let provider = |series: Series| Some(Provider { name: series.name?, counts: series.totals.counts });
    Ok(Some(Traffic {
        range,
        totals: statistics.totals.counts,
        latency: statistics.totals.latency,
        bounces: statistics.totals.bounces,
        providers: providers.into_iter().filter_map(provider).collect(),
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
            latency: p95_ms.map(|p95_ms| Latency { p50_ms: p95_ms / 2, p95_ms, p99_ms: p95_ms }),
            queue: None,
        };
        let points = points.iter().map(point).collect();
        Traffic {
            range: RANGES[0],
            totals: Counts::default(),
            latency: None,
            bounces: Vec::new(),
            providers: Vec::new(),
            points,
        }
    }

    #[test]
    fn outcomes_are_stacked_below_the_accepted() {
        let counts = Counts { accepted: 10, delivered: 1, relayed: 4, deferred: 0, bounced: 5, complained: 0 };
        let traffic = traffic(&[(Counts::default(), None), (counts, None)]);
        let bars = traffic.bars();
        assert_eq!(traffic.count_scale(), ["20", "15", "10", "5", "0"]);
        assert_eq!(bars[0], Bar { tone: "good", x: 11, y: 750, width: 8, height: 250 });
        assert_eq!(bars[1], Bar { tone: "bad", x: 11, y: 500, width: 8, height: 250 });
        assert_eq!((bars.len(), traffic.accepted_path().as_str()), (2, "M0 1000h10V500h10"));
    }

    #[test]
    fn complaints_are_compared_with_the_lines() {
        for (complained, rate, tone) in [(0, "0.00 %", "good"), (10, "0.10 %", "warn"), (30, "0.30 %", "bad")] {
            let counts = Counts { delivered: 4_000, relayed: 6_000, complained, ..Counts::default() };
            assert_eq!((counts.complaint_rate().as_str(), counts.complaint_tone()), (rate, tone));
        }
        assert_eq!(Counts { complained: 1, ..Counts::default() }.complaint_rate(), "–");
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
