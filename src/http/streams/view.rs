//! A stream as the API shows it, and as it is set.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::duration_text;
use crate::db::streams::StreamRow;
use crate::domain::lane::Paused;
use crate::domain::retry::{self, Policy};
use crate::http::lanes::PausedView;

/// A kind of mail: how urgent it is, how fast it goes, when it is tried again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Stream)]
pub struct StreamView {
    /// Its name.
    #[schema(example = "transactional")]
    pub name: String,
    /// Lower goes first; up to 10 is urgent.
    #[schema(minimum = 0, maximum = 100)]
    pub priority: i16,
    /// Its share among streams of the same priority.
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: i16,
    /// Mails in flight at one time, over all lanes and workers; null means without limit.
    pub concurrency: Option<i32>,
    /// Mails a second, over all lanes and workers; null means without limit.
    pub rate: Option<f64>,
    /// Its own settings for trying again; null means as configured.
    pub retry_schedule: Option<Vec<String>>,
    /// See `retry_schedule`.
    pub retry_window: Option<String>,
    /// See `retry_schedule`.
    pub greylist: Option<String>,
    /// Whether its mail to one recipient carries `List-Unsubscribe` and `List-Unsubscribe-Post` (RFC 8058).
    pub unsubscribe: bool,
    /// What applies to trying again.
    pub effective: RetryView,
    /// That an operator has stopped it.
    pub paused: Option<PausedView>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// When mail is tried again, and until when.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RetryPolicy)]
pub struct RetryView {
    /// The waits after the first, second, … attempt, each ±20 %; the last one repeats.
    #[schema(example = json!(["1m", "5m", "15m"]))]
    pub retry_schedule: Vec<String>,
    /// From the first attempt to giving up as `expired`.
    #[schema(example = "3d")]
    pub retry_window: String,
    /// The first wait where the reply speaks of greylisting.
    #[schema(example = "5m")]
    pub greylist: String,
}

/// A new stream.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewStreamBody {
    /// 1–64 letters, digits, `-` and `_`.
    #[schema(example = "newsletter", pattern = "^[A-Za-z0-9_-]{1,64}$")]
    pub name: String,
    /// Lower goes first; up to 10 is urgent. 50 unless given.
    #[schema(minimum = 0, maximum = 100)]
    pub priority: Option<i16>,
    /// Its share among streams of the same priority. 10 unless given.
    #[schema(minimum = 1, maximum = 1000)]
    pub weight: Option<i16>,
    /// Mails in flight at one time, over all lanes and workers; without limit unless given.
    #[schema(minimum = 1, maximum = 100_000)]
    pub concurrency: Option<i32>,
    /// Mails a second, over all lanes and workers, from 0.00001; without limit unless given.
    #[schema(minimum = 0.00001, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// The waits after the first, second, … attempt: 1 to 50 of 1s–7d; as configured unless given.
    #[schema(min_items = 1, max_items = 50, example = json!(["1m", "5m", 3600]))]
    pub retry_schedule: Option<Vec<DurationInput>>,
    /// From the first attempt to giving up: 1s–30d; as configured unless given.
    pub retry_window: Option<DurationInput>,
    /// The first wait after greylisting: 1s–1d; as configured unless given.
    pub greylist: Option<DurationInput>,
    /// Whether mail to one recipient carries a link by which that one is rid of this stream with one click (RFC 8058). Needs
    /// `public_url` and `secret_key` in the configuration. No unless given.
    pub unsubscribe: Option<bool>,
}

/// Changes to a stream. `null` makes a setting as configured again (not `priority`, `weight` and `unsubscribe`); what is missing stays.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StreamChangeBody {
    /// Lower goes first; up to 10 is urgent. Not null.
    #[schema(minimum = 0, maximum = 100, nullable = false)]
    pub priority: Option<i16>,
    /// Its share among streams of the same priority. Not null.
    #[schema(minimum = 1, maximum = 1000, nullable = false)]
    pub weight: Option<i16>,
    /// Mails in flight at one time, over all lanes and workers.
    #[schema(minimum = 1, maximum = 100_000)]
    pub concurrency: Option<i32>,
    /// Mails a second, over all lanes and workers, from 0.00001.
    #[schema(minimum = 0.00001, maximum = 1_000_000)]
    pub rate: Option<f64>,
    /// The waits after the first, second, … attempt: 1 to 50 of 1s–7d.
    #[schema(min_items = 1, max_items = 50, example = json!(["1m", "5m", 3600]))]
    pub retry_schedule: Option<Vec<DurationInput>>,
    /// From the first attempt to giving up: 1s–30d.
    pub retry_window: Option<DurationInput>,
    /// The first wait after greylisting: 1s–1d.
    pub greylist: Option<DurationInput>,
    /// Whether mail to one recipient carries a link by which that one is rid of this stream with one click (RFC 8058). Needs
    /// `public_url` and `secret_key` in the configuration. Holds for mail accepted from now on. Not null.
    #[schema(nullable = false)]
    pub unsubscribe: Option<bool>,
}

/// A time span: in words or in seconds.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "it documents what accept::request::stream reads")]
#[schema(as = DurationInput)]
#[serde(untagged)]
pub enum DurationInput {
    /// Such as `90s`, `5m`, `1h30m` or `3d`.
    #[schema(example = "5m")]
    Text(String),
    /// Whole seconds.
    Seconds(u32),
}

impl StreamView {
    pub(super) fn of(row: StreamRow, configured: &Policy) -> Self {
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
            effective,
            paused: paused.map(|paused| PausedView::of(paused, "stream")),
            created_at: row.created_at,
        }
    }
}

fn text(seconds: i32) -> String {
    duration_text(retry::stored(seconds))
}
