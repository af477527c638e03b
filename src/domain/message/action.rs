//! Actions on all recipients that match a filter.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::delivery::Status;
use crate::domain::id::{BulkId, KeyId, LaneId, TemplateId};

/// What an action does with the recipients that match its filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MessageActionKind)]
pub enum ActionKind {
    /// Cancels queued recipients, including scheduled, deferred and held ones.
    Cancel,
    /// Makes deferred recipients, and those that could not be prepared, due now. Held ones do not change.
    Retry,
    /// Makes recipients that are held for an operator due now: after crashes, or `uncertain` with `on_uncertain: hold`.
    /// Recipients of a paused bulk stay held.
    Release,
}

impl ActionKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Cancel, Self::Retry, Self::Release];

    /// Returns the name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Release => "release",
        }
    }

    /// Returns whether a recipient with this status can match.
    pub fn applies_to(self, status: Status) -> bool {
        match self {
            Self::Cancel => matches!(status, Status::Queued | Status::Scheduled | Status::Deferred),
            Self::Retry => matches!(status, Status::Queued | Status::Deferred),
            Self::Release => matches!(status, Status::Queued | Status::Deferred | Status::Uncertain),
        }
    }
}

impl FromStr for ActionKind {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(())
    }
}

/// The state of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = MessageActionStatus)]
pub enum ActionStatus {
    /// Recipients that match are looked for and changed.
    Running,
    /// All recipients were examined.
    Done,
    /// It was canceled; what it had changed stays changed.
    Canceled,
    /// It ended early because of an error; what it had changed stays changed.
    Failed,
}

impl ActionStatus {
    /// Returns the name in SQL and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Done => "done",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
        }
    }
}

impl FromStr for ActionStatus {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let all = [Self::Running, Self::Done, Self::Canceled, Self::Failed];
        all.into_iter().find(|status| status.as_str() == word).ok_or(())
    }
}

/// Which recipients an action applies to. A recipient must match all fields. `to`, `to_domain`, `lane` and `status` are
/// about the recipient itself, the other fields about its message.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = MessageActionFilter, example = json!({"stream": "bulk", "tag": "campaign:spring"}))]
pub struct ActionFilter {
    /// The name of the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "bulk")]
    pub stream: Option<String>,
    /// A tag, as `name:value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^.+:.*$", example = "campaign:spring")]
    pub tag: Option<String>,
    /// The recipient's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "ann@example.test")]
    pub to: Option<String>,
    /// The domain of the recipient's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "example.test")]
    pub to_domain: Option<String>,
    /// The sender's address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "news@acme.test")]
    pub from: Option<String>,
    /// A text that the subject contains; case-insensitive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "spring")]
    pub subject: Option<String>,
    /// The id of the lane in which the recipient is queued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "lane_42")]
    pub lane: Option<LaneId>,
    /// The recipient's status: `queued`, `scheduled`, `deferred` or `uncertain`, as far as the action applies to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// The template's id, or in a request its alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub template: Option<TemplateId>,
    /// The id of the bulk. `POST /v1/bulks/{id}/cancel` also cancels recipients that are being sent and are deferred later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "blk_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub bulk: Option<BulkId>,
    /// The id of the API key that the message was sent with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub key: Option<KeyId>,
    /// Accepted at or after this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub created_after: Option<DateTime<Utc>>,
    /// Accepted before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "2026-12-01T10:00:00Z")]
    pub created_before: Option<DateTime<Utc>>,
}

impl ActionFilter {
    /// Returns whether every recipient matches.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns the name and the value of the tag.
    pub fn tag(&self) -> Option<(&str, &str)> {
        self.tag.as_deref().and_then(|tag| tag.split_once(':'))
    }

    /// Returns the time before which no message that matches was accepted. A message of a template, a bulk or an API key
    /// is not older than these; clock differences between replicas of up to a day are allowed.
    pub fn earliest(&self) -> Option<DateTime<Utc>> {
        let bounds = [
            self.template.map(TemplateId::created_at),
            self.bulk.map(BulkId::accepted_at),
            self.key.map(KeyId::created_at),
        ];
        let oldest =
            bounds.into_iter().flatten().map(|at| (at - chrono::TimeDelta::days(1)).max(DateTime::UNIX_EPOCH)).max();
        oldest.max(self.created_after)
    }
}

/// The estimated progress of an action that has examined a part of the queue: a fraction below 1. `None` if the size of
/// the queue is unknown.
pub fn progress(examined: i64, queue_size: i64) -> Option<f64> {
    if queue_size <= 0 {
        return None;
    }
    // Precise enough: both are far below 2^52.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let fraction = examined as f64 / queue_size as f64;
    Some(fraction.clamp(0.0, 0.99))
}

/// Returns the estimated end of an action that began at `start` and has made this `progress`.
pub fn estimated_end(start: DateTime<Utc>, now: DateTime<Utc>, progress: f64) -> Option<DateTime<Utc>> {
    let elapsed = (now - start).to_std().ok()?.as_secs_f64();
    if elapsed <= 0.0 || progress <= 0.0 {
        return None;
    }
    let rest = std::time::Duration::try_from_secs_f64(elapsed * (1.0 - progress) / progress).ok()?;
    now.checked_add_signed(chrono::TimeDelta::from_std(rest).ok()?)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn stored_filter_is_read_again() {
        let filter = ActionFilter {
            tag: Some("kind:news".into()),
            lane: Some(LaneId(42)),
            status: Some(Status::Deferred),
            bulk: Some(BulkId::new(DateTime::UNIX_EPOCH)),
            ..ActionFilter::default()
        };
        let stored = serde_json::to_value(&filter).unwrap();
        assert_eq!(stored.as_object().unwrap().len(), 4, "absent fields are left out");
        assert_eq!(serde_json::from_value::<ActionFilter>(stored).unwrap(), filter);
        assert!(!filter.is_empty() && ActionFilter::default().is_empty());
    }

    #[test]
    fn progress_stays_below_one_and_is_unknown_without_a_size() {
        assert_eq!((progress(5, 0), progress(5, -1)), (None, None));
        assert_eq!(progress(25, 100), Some(0.25));
        assert_eq!(progress(500, 100), Some(0.99));
    }

    #[test]
    fn remaining_time_is_extrapolated() {
        let start = DateTime::UNIX_EPOCH;
        let now = start + TimeDelta::seconds(10);
        assert_eq!(estimated_end(start, now, 0.25), Some(now + TimeDelta::seconds(30)));
        assert_eq!((estimated_end(start, start, 0.5), estimated_end(start, now, 0.0)), (None, None));
    }

    #[test]
    fn retry_does_not_apply_to_scheduled_recipients() {
        assert!(ActionKind::Cancel.applies_to(Status::Scheduled) && !ActionKind::Retry.applies_to(Status::Scheduled));
        assert!(!ActionKind::Cancel.applies_to(Status::Uncertain) && ActionKind::Release.applies_to(Status::Uncertain));
        assert!(ActionKind::ALL.iter().all(|kind| !kind.applies_to(Status::Sending)));
    }
}
