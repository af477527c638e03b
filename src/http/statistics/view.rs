//! Statistics in API responses.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::statistics::query::{Queue, QueueSample, Selection, SeriesFigures};
use crate::domain::bounce::Category;
use crate::domain::statistics::count::{Counter, Figures};
use crate::domain::statistics::latency::Histogram;
use crate::domain::statistics::{GroupBy, Step};

/// Figures over time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Statistics)]
pub struct StatisticsView {
    /// Start of the first time span.
    #[schema(example = "2026-11-22T12:00:00Z")]
    pub since: DateTime<Utc>,
    /// End of the last time span.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub until: DateTime<Utc>,
    /// The length of each time span.
    pub step: Step,
    /// What the series are grouped by; null: there is one series.
    pub group_by: Option<GroupBy>,
    /// All events up to this time are counted; null if none is counted yet.
    #[schema(example = "2026-11-23T11:59:58Z")]
    pub as_of: Option<DateTime<Utc>>,
    /// The totals of all series.
    pub totals: StatisticsTotals,
    /// The series, in order of their names. Without `group_by`, there is always one; otherwise there is one for each
    /// group that occurs.
    pub series: Vec<StatisticsSeries>,
}

/// Figures of one group over time.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsSeries {
    /// The name of the stream or provider, or the category; null without `group_by`.
    #[schema(example = "transactional")]
    pub name: Option<String>,
    /// The totals of the series.
    pub totals: StatisticsTotals,
    /// One point for each time span, in order, also if nothing happened in it.
    pub points: Vec<StatisticsPoint>,
}

/// The totals of a time range.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsTotals {
    /// Numbers of recipients.
    pub counts: StatisticsCounts,
    /// Bounces by category, the most frequent first.
    pub bounces: Vec<StatisticsBounces>,
    /// Times from acceptance until messages were relayed or delivered; null if there were none.
    pub latency: Option<StatisticsLatency>,
}

/// The figures of one time span.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsPoint {
    /// The start of the time span.
    #[schema(example = "2026-11-23T11:00:00Z")]
    pub at: DateTime<Utc>,
    /// Numbers of recipients.
    pub counts: StatisticsCounts,
    /// Times from acceptance until messages were relayed or delivered; null if there were none.
    pub latency: Option<StatisticsLatency>,
    /// The queue; null if it was not measured in the time span, with `provider`, and grouped by provider or category.
    pub queue: Option<StatisticsQueue>,
}

/// Numbers of recipients. Grouped by category, there is only `bounced`.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsCounts {
    /// Recipients of accepted messages.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_200)]
    pub accepted: Option<i64>,
    /// Recipients whose message a relay accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1_150)]
    pub relayed: Option<i64>,
    /// Recipients whose own mail server accepted the message, or said so later in a report (DSN).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 0)]
    pub delivered: Option<i64>,
    /// Attempts that failed and are followed by another one. A recipient may count several times.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 40)]
    pub deferred: Option<i64>,
    /// Recipients that were permanently refused, by an SMTP reply or by a later bounce message.
    #[schema(example = 20)]
    pub bounced: i64,
    /// Recipients whose retry window or `expires_at` ran out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 5)]
    pub expired: Option<i64>,
    /// Recipients that nothing was sent to because the address is on the suppression list.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 10)]
    pub suppressed: Option<i64>,
    /// Recipients that were canceled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 2)]
    pub canceled: Option<i64>,
    /// Recipients that ended without a reply to the message body.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 0)]
    pub uncertain: Option<i64>,
    /// Complaints (feedback reports).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 1)]
    pub complained: Option<i64>,
    /// Uses of the unsubscribe link.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3)]
    pub unsubscribed: Option<i64>,
}

/// Bounces of one category.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsBounces {
    /// The reason for the refusals.
    #[schema(value_type = Category, example = "unknown_user")]
    pub category: String,
    /// The number of recipients.
    #[schema(example = 12)]
    pub count: i64,
}

/// Times from acceptance until messages were relayed or delivered by an attempt, without messages with `scheduled_at`.
/// Percentiles are estimated from a histogram.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct StatisticsLatency {
    /// The number of recipients.
    #[schema(example = 1_150)]
    pub count: i64,
    /// The median, in milliseconds.
    #[schema(example = 80)]
    pub p50_ms: i64,
    /// The 95th percentile, in milliseconds.
    #[schema(example = 420)]
    pub p95_ms: i64,
    /// The 99th percentile, in milliseconds.
    #[schema(example = 1_900)]
    pub p99_ms: i64,
}

/// The queue, sampled once a minute. Longer time spans have the highest values.
#[derive(Debug, Clone, Copy, Default, Serialize, utoipa::ToSchema)]
pub struct StatisticsQueue {
    /// Waiting recipients, due now or later; counted up to 100,000 in each lane.
    #[schema(example = 240)]
    pub waiting: i64,
    /// Waiting recipients that were due.
    #[schema(example = 12)]
    pub due: i64,
    /// For how many seconds the oldest recipient had been due, in lanes that were neither paused nor unreachable.
    #[schema(example = 3)]
    pub oldest_due_seconds: i64,
}

impl StatisticsView {
    pub(super) fn new(
        selection: &Selection,
        as_of: Option<DateTime<Utc>>,
        figures: SeriesFigures,
        queue: Option<Queue>,
    ) -> Self {
        let Queue { samples, measured } = queue.unwrap_or_default();
        let mut by_series = BTreeMap::<Option<String>, Samples>::new();
        for sample in samples {
            by_series.entry(sample.name.clone()).or_default().insert(sample.start_at, sample);
        }
        let is_by_category = selection.group_by == Some(GroupBy::Category);
        let mut totals = Figures::default();
        figures.values().flat_map(BTreeMap::values).for_each(|figures| totals.merge(figures));
        let series = figures.into_iter().map(|(name, by_start)| {
            let samples = by_series.remove(&name).unwrap_or_default();
            StatisticsSeries::new(selection, name, &by_start, (&samples, &measured))
        });
        Self {
            series: series.collect(),
            since: selection.range.since,
            until: selection.range.until,
            step: selection.range.step,
            group_by: selection.group_by,
            as_of,
            totals: StatisticsTotals::new(&totals, is_by_category),
        }
    }
}

/// The samples of one series that are not empty, by start of the time span.
type Samples = BTreeMap<DateTime<Utc>, QueueSample>;

impl From<&QueueSample> for StatisticsQueue {
    fn from(sample: &QueueSample) -> Self {
        Self { waiting: sample.waiting, due: sample.due, oldest_due_seconds: sample.oldest_due_seconds }
    }
}

impl StatisticsSeries {
    fn new(
        selection: &Selection,
        name: Option<String>,
        by_start: &BTreeMap<DateTime<Utc>, Figures>,
        (samples, measured): (&Samples, &BTreeSet<DateTime<Utc>>),
    ) -> Self {
        let (is_by_category, nothing) = (selection.group_by == Some(GroupBy::Category), Figures::default());
        let mut totals = Figures::default();
        for figures in by_start.values() {
            totals.merge(figures);
        }
        let points = selection.range.starts().map(|at| {
            let figures = by_start.get(&at).unwrap_or(&nothing);
            StatisticsPoint {
                at,
                counts: StatisticsCounts::new(figures, is_by_category),
                latency: StatisticsLatency::new(&figures.latency),
                queue: measured.contains(&at).then(|| samples.get(&at).map(StatisticsQueue::from).unwrap_or_default()),
            }
        });
        Self { name, points: points.collect(), totals: StatisticsTotals::new(&totals, is_by_category) }
    }
}

impl StatisticsTotals {
    fn new(figures: &Figures, is_by_category: bool) -> Self {
        let bounce =
            |(category, count): (&String, &i64)| StatisticsBounces { category: category.clone(), count: *count };
        let mut bounces: Vec<StatisticsBounces> = figures.bounces.iter().map(bounce).collect();
        bounces.sort_by_key(|bounces| Reverse(bounces.count));
        Self {
            counts: StatisticsCounts::new(figures, is_by_category),
            bounces,
            latency: StatisticsLatency::new(&figures.latency),
        }
    }
}

impl StatisticsCounts {
    fn new(figures: &Figures, is_by_category: bool) -> Self {
        let count = |counter| (!is_by_category).then(|| figures.get(counter));
        Self {
            accepted: count(Counter::Accepted),
            relayed: count(Counter::Relayed),
            delivered: count(Counter::Delivered),
            deferred: count(Counter::Deferred),
            bounced: figures.get(Counter::Bounced),
            expired: count(Counter::Expired),
            suppressed: count(Counter::Suppressed),
            canceled: count(Counter::Canceled),
            uncertain: count(Counter::Uncertain),
            complained: count(Counter::Complained),
            unsubscribed: count(Counter::Unsubscribed),
        }
    }
}

impl StatisticsLatency {
    fn new(histogram: &Histogram) -> Option<Self> {
        Some(Self {
            count: histogram.count(),
            p50_ms: histogram.percentile(50)?,
            p95_ms: histogram.percentile(95)?,
            p99_ms: histogram.percentile(99)?,
        })
    }
}
