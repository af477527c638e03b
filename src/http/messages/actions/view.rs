//! Actions on messages as the API shows them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::accept::background::actions::MatchCount;
use crate::db::messages::actions::jobs::ActionRow;
use crate::domain::id::{ActionId, KeyId};
use crate::domain::message::action::{ActionFilter, ActionKind, ActionStatus, estimated_end, progress};

/// An action on all recipients that match a filter.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageActionBody)]
pub struct ActionBody {
    /// What to do with the recipients that match.
    pub action: ActionKind,
    /// Which recipients; at least one field.
    pub filter: Option<ActionFilter>,
    /// `true`, without `filter`: all recipients.
    #[schema(default = false, example = false)]
    pub all: Option<bool>,
    /// `true`: only count the recipients that match, and change nothing.
    #[schema(default = false, example = false)]
    pub dry_run: Option<bool>,
}

/// The result of a dry run.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MessageActionPreview)]
pub struct ActionPreview {
    /// What the action would do.
    pub action: ActionKind,
    /// Which recipients.
    pub filter: ActionFilter,
    /// The number of recipients that match now, including those that are being sent, which the action would skip.
    #[schema(example = 99_812)]
    pub matched: usize,
    /// Whether the number is exact; otherwise at least that many match: counting all of them would take too long.
    #[schema(example = true)]
    pub is_exact: bool,
}

impl ActionPreview {
    pub(super) fn new(action: ActionKind, filter: ActionFilter, count: MatchCount) -> Self {
        Self { action, filter, matched: count.recipients, is_exact: count.is_exact }
    }
}

/// An action and its progress.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MessageAction)]
pub struct ActionView {
    /// The id of the action.
    #[schema(value_type = String, example = "act_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: ActionId,
    /// What it does.
    #[schema(value_type = ActionKind)]
    pub action: String,
    /// Which recipients; empty: all.
    #[schema(value_type = ActionFilter)]
    pub filter: Value,
    /// The state of the action.
    #[schema(value_type = ActionStatus)]
    pub status: String,
    /// The API key that started it.
    #[schema(value_type = String, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub key_id: KeyId,
    /// When it was accepted. It applies to messages that were accepted before, and to those of bulks that were.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When it ended; null while it is running.
    #[schema(example = "2026-12-01T09:00:21Z")]
    pub finished_at: Option<DateTime<Utc>>,
    /// The number of recipients that have matched so far.
    #[schema(example = 99_812)]
    pub matched: i64,
    /// The number of recipients that were changed.
    #[schema(example = 99_780)]
    pub changed: i64,
    /// The number of recipients that matched and were not changed, because they were being sent.
    #[schema(example = 32)]
    pub skipped: i64,
    /// The estimated progress, from 0 to 1: the part of the queue that was examined. Null if it is unknown.
    #[schema(minimum = 0, maximum = 1, example = 0.62)]
    pub progress: Option<f64>,
    /// The estimated end; null if it is unknown or has passed.
    #[schema(example = "2026-12-01T09:00:25Z")]
    pub estimated_end: Option<DateTime<Utc>>,
    /// The error of the last try; null if it succeeded. A running action is tried again.
    #[schema(example = "the database did not respond in time")]
    pub error: Option<String>,
}

impl ActionView {
    /// Creates the view of a stored action.
    pub(super) fn from_row(row: ActionRow, now: DateTime<Utc>) -> Self {
        let is_running = row.status == ActionStatus::Running.as_str();
        let progress = match row.status.parse() {
            Ok(ActionStatus::Done) => Some(1.0),
            _ => progress(row.examined, row.queue_size),
        };
        let estimated_end =
            progress.filter(|_| is_running).and_then(|progress| estimated_end(row.created_at, now, progress));
        Self {
            id: ActionId(row.id),
            action: row.action,
            filter: row.filter,
            status: row.status,
            key_id: KeyId(row.key_id),
            created_at: row.created_at,
            finished_at: row.finished_at,
            matched: row.matched,
            changed: row.changed,
            skipped: row.skipped,
            progress,
            estimated_end,
            error: row.error,
        }
    }
}
