//! Streams in API requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::duration_text;
use crate::db::streams::StreamRow;
use crate::domain::delivery::retry::{self, Policy};
use crate::domain::lane::Paused;
use crate::http::lanes::PausedView;

/// A stream: a kind of traffic with its priority, limits and retry policy.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Stream)]
pub struct StreamView {
    /// The stream's name.
    #[schema(example = "transactional")]
    pub name: String,
    /// The priority; lower values are sent first, and values up to 10 are urgent.
    #[schema(minimum = 0, maximum = 100, example = 50)]
    pub priority: i16,
    /// The stream's weight among streams of the same priority.
    #[schema(minimum = 1, maximum = 1000, example = 10)]
    pub weight: i16,
    /// Maximum messages in flight, over all lanes and workers; null means unlimited.
    #[schema(example = 100)]
    pub concurrency: Option<i32>,
    /// Maximum messages per second, over all lanes and workers; null means unlimited.
    #[schema(example = 50.0)]
    pub rate: Option<f64>,
    /// The stream's retry delays; null means the configured default.
    #[schema(example = json!(["1m", "5m", "15m"]))]
    pub retry_schedule: Option<Vec<String>>,
    /// The stream's retry window; null means the configured default.
    #[schema(example = "3d")]
    pub retry_window: Option<String>,
    /// The stream's first delay after greylisting; null means the configured default.
    #[schema(example = "5m")]
    pub greylist: Option<String>,
    /// Whether messages to a single recipient get `List-Unsubscribe` and `List-Unsubscribe-Post` headers (RFC 8058).
    #[schema(example = false)]
    pub unsubscribe: bool,
    /// How long the stream's messages keep their content: a duration, or `forever` (as long as the messages themselves); null
    /// means the configured default (`retention.content`).
    #[schema(example = "7d")]
    pub content_retention: Option<String>,
    /// The retry policy that applies.
    pub effective: RetryView,
    /// The pause of the stream by an operator; null if there is none.
    pub paused: Option<PausedView>,
    /// When the stream was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
}

/// A retry policy.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RetryPolicy)]
pub struct RetryView {
    /// The delays after the first, second, … attempt, each ±20 %; the last one repeats.
    #[schema(example = json!(["1m", "5m", "15m"]))]
    pub retry_schedule: Vec<String>,
    /// The time from the first attempt until the recipient becomes `expired`.
    #[schema(example = "3d")]
    pub retry_window: String,
    /// The first delay if the reply indicates greylisting.
    #[schema(example = "5m")]
    pub greylist: String,
}

/// A stream to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStreamBody {
    /// The stream's name: 1–64 letters, digits, `-` and `_`.
    #[schema(example = "newsletter", pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub name: String,
    /// The priority; lower values are sent first, and values up to 10 are urgent. Defaults to 50.
    #[schema(minimum = 0, maximum = 100, example = 50)]
    pub priority: Option<i16>,
    /// The stream's weight among streams of the same priority. Defaults to 10.
    #[schema(minimum = 1, maximum = 1000, example = 10)]
    pub weight: Option<i16>,
    /// Maximum messages in flight, over all lanes and workers; unlimited by default.
    #[schema(minimum = 1, maximum = 100_000, example = 100)]
    pub concurrency: Option<i32>,
    /// Maximum messages per second, over all lanes and workers, from 0.00001; unlimited by default.
    #[schema(minimum = 0.00001, maximum = 1_000_000, example = 50.0)]
    pub rate: Option<f64>,
    /// The delays after the first, second, … attempt: 1 to 50 values from 1s to 7d; defaults to the configuration.
    #[schema(min_items = 1, max_items = 50, example = json!(["1m", "5m", 3600]))]
    pub retry_schedule: Option<Vec<DurationInput>>,
    /// The time from the first attempt until the recipient becomes `expired`, from 1s to 30d; defaults to the
    /// configuration.
    pub retry_window: Option<DurationInput>,
    /// The first delay after greylisting, from 1s to 1d; defaults to the configuration.
    pub greylist: Option<DurationInput>,
    /// Whether messages to a single recipient get a one-click unsubscribe link for this stream (RFC 8058). Requires
    /// `public_url` and `secret_key` in the configuration. Defaults to false.
    #[schema(example = false)]
    pub unsubscribe: Option<bool>,
    /// How long the stream's messages keep their content (bodies, headers, attachments and variables): from 1d to 3650d, at most
    /// as long as messages are kept (`retention.messages`), or `forever`: as long as the messages. Defaults to the
    /// configuration.
    pub content_retention: Option<DurationInput>,
}

/// Changes to a stream. `null` resets a setting to its configured default (not allowed for `priority`, `weight` and
/// `unsubscribe`); omitted fields keep their value.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamChangeBody {
    /// The priority; lower values are sent first, and values up to 10 are urgent. Not null.
    #[schema(minimum = 0, maximum = 100, nullable = false, example = 50)]
    pub priority: Option<i16>,
    /// The stream's weight among streams of the same priority. Not null.
    #[schema(minimum = 1, maximum = 1000, nullable = false, example = 10)]
    pub weight: Option<i16>,
    /// Maximum messages in flight, over all lanes and workers.
    #[schema(minimum = 1, maximum = 100_000, example = 100)]
    pub concurrency: Option<i32>,
    /// Maximum messages per second, over all lanes and workers, from 0.00001.
    #[schema(minimum = 0.00001, maximum = 1_000_000, example = 50.0)]
    pub rate: Option<f64>,
    /// The delays after the first, second, … attempt: 1 to 50 values from 1s to 7d.
    #[schema(min_items = 1, max_items = 50, example = json!(["1m", "5m", 3600]))]
    pub retry_schedule: Option<Vec<DurationInput>>,
    /// The time from the first attempt until the recipient becomes `expired`, from 1s to 30d.
    pub retry_window: Option<DurationInput>,
    /// The first delay after greylisting, from 1s to 1d.
    pub greylist: Option<DurationInput>,
    /// Whether messages to a single recipient get a one-click unsubscribe link for this stream (RFC 8058). Requires
    /// `public_url` and `secret_key` in the configuration. Applies to messages accepted from now on. Not null.
    #[schema(nullable = false, example = false)]
    pub unsubscribe: Option<bool>,
    /// How long the stream's messages keep their content (bodies, headers, attachments and variables): from 1d to 3650d, at most
    /// as long as messages are kept (`retention.messages`), or `forever`: as long as the messages. Applies to stored
    /// messages too.
    pub content_retention: Option<DurationInput>,
}

/// A duration, as text or in seconds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::stream parses")]
#[schema(as = DurationInput)]
#[serde(untagged)]
pub enum DurationInput {
    /// Text such as `90s`, `5m`, `1h30m` or `3d`.
    #[schema(example = "5m")]
    Text(String),
    /// A number of whole seconds.
    Seconds(u32),
}

impl StreamView {
    pub(super) fn from_row(row: StreamRow, configured: &Policy) -> Self {
        let effective = configured.with(&row.retry);
        let effective = RetryView {
            retry_schedule: effective.schedule.into_iter().map(duration_text).collect(),
            retry_window: duration_text(effective.window),
            greylist: duration_text(effective.greylist),
        };
        let schedule = row.retry.schedule.map(|waits| waits.into_iter().map(text).collect::<Vec<_>>());
        let window = row.retry.window.map(text);
        let greylist = row.retry.greylist.map(text);
        let paused = row.paused_at.map(|at| Paused { at, reason: row.pause_reason });
        Self {
            name: row.name,
            priority: row.priority,
            weight: row.weight,
            concurrency: row.concurrency,
            rate: row.rate,
            retry_schedule: schedule,
            retry_window: window,
            greylist,
            unsubscribe: row.unsubscribe,
            content_retention: row
                .content_retention
                .map(|seconds| if seconds == 0 { "forever".into() } else { text(seconds) }),
            effective,
            paused: paused.map(|paused| PausedView::new(paused, "stream")),
            created_at: row.created_at,
        }
    }
}

fn text(seconds: i32) -> String {
    duration_text(retry::from_seconds(seconds))
}
