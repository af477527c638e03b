//! Webhook endpoints in API requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::webhooks::EndpointRow;
use crate::domain::endpoint::{Secret, State};
use crate::domain::event::EventType;
use crate::domain::id::EndpointId;

/// A webhook endpoint, with its settings and status.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    /// The webhook's id.
    #[schema(value_type = String, example = "wh_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: EndpointId,
    /// The URL that events are posted to.
    #[schema(example = "https://hooks.acme.test/mail")]
    pub url: String,
    /// The description as given.
    pub description: String,
    /// The event types that it receives; null means all.
    #[schema(value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// Maximum concurrent posts.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: i16,
    /// Maximum posts per second; null means unlimited.
    pub rate: Option<f64>,
    /// Maximum events in one post.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: i16,
    /// The status of the webhook.
    pub state: State,
    /// The cursor: every event up to this `seq` was delivered, was filtered out, or waits for a retry.
    pub cursor: i64,
    /// The number of events after the cursor, of all types.
    pub behind: i64,
    /// Failed posts that wait for a retry.
    pub pending_retries: i64,
    /// When a post last succeeded; null if none has.
    pub last_success_at: Option<DateTime<Utc>>,
    /// The error of the last failed post.
    #[schema(example = "answered 503 Service Unavailable")]
    pub last_error: Option<String>,
    /// Since when posts have been failing; null if the last one succeeded. The webhook is disabled after 5 days.
    pub failing_since: Option<DateTime<Utc>>,
    /// The number of failed posts since then; while the endpoint is down, only probes are made and counted.
    pub failures: i32,
    /// The time before which nothing is posted, because of `Retry-After`, the rate limit or consecutive failures; null
    /// if none.
    pub open_at: Option<DateTime<Utc>>,
    /// When the webhook was disabled; null if it is enabled.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why the webhook was disabled.
    pub disabled_reason: Option<String>,
    /// Until when posts are also signed with the previous secret.
    pub old_secret_until: Option<DateTime<Utc>>,
    /// When the webhook was created.
    pub created_at: DateTime<Utc>,
}

/// A webhook with a new secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookWithSecret)]
pub struct WithSecret {
    /// The webhook.
    #[serde(flatten)]
    pub webhook: WebhookView,
    /// The secret with which a Standard Webhooks library verifies posts. Shown only once.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw9X3Zf1Yq0Yk=")]
    pub secret: String,
}

/// A webhook to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhookBody {
    /// The URL to post to: http or https, without user name, password and fragment.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: String,
    /// The event types to receive; defaults to all.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// A description, one line.
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Maximum concurrent posts; defaults to 8.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: Option<i16>,
    /// Maximum posts per second, from 0.00001; unlimited by default.
    #[schema(minimum = 0.00001, maximum = 100_000)]
    pub rate: Option<f64>,
    /// Maximum events in one post; defaults to 1.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: Option<i16>,
}

/// Changes to a webhook. `null` resets `events`, `description` and `rate` to their defaults; omitted fields keep their
/// value.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChangeBody {
    /// The new URL to post to. Resets the failures of the old URL.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: Option<String>,
    /// The event types to receive from now on.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// A description, one line.
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Maximum concurrent posts.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: Option<i16>,
    /// Maximum posts per second, from 0.00001.
    #[schema(minimum = 0.00001, maximum = 100_000)]
    pub rate: Option<f64>,
    /// Maximum events in one post.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: Option<i16>,
    /// `true` stops the webhook at its cursor. `false` continues from there, and posts at once even if it was failing.
    pub disabled: Option<bool>,
}

impl std::fmt::Debug for WithSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithSecret").field("webhook", &self.webhook).finish_non_exhaustive()
    }
}

impl WebhookView {
    pub(super) fn from_row(row: EndpointRow, now: DateTime<Utc>) -> Self {
        let ahead = |time: Option<DateTime<Utc>>| time.filter(|time| *time > now);
        Self {
            id: EndpointId(row.id),
            url: row.url,
            description: row.description,
            events: row.events,
            concurrency: row.concurrency,
            rate: row.rate,
            batch: row.batch,
            state: match (row.disabled_at, row.failing_since) {
                (Some(_), _) => State::Disabled,
                (None, Some(_)) => State::Failing,
                (None, None) => State::Active,
            },
            cursor: row.cursor,
            behind: row.behind,
            pending_retries: row.pending_retries,
            last_success_at: row.last_success_at,
            last_error: row.last_error,
            failing_since: row.failing_since,
            failures: row.failures,
            open_at: ahead(row.open_at),
            disabled_at: row.disabled_at,
            disabled_reason: row.disabled_reason,
            old_secret_until: ahead(row.old_secret_until),
            created_at: row.created_at,
        }
    }

    pub(super) fn with(self, secret: &Secret) -> WithSecret {
        WithSecret { webhook: self, secret: secret.expose() }
    }
}
