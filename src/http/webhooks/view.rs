//! Webhook endpoints in API requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::webhooks::EndpointRow;
use crate::domain::event::EventType;
use crate::domain::id::EndpointId;
use crate::domain::webhook::endpoint::{PostFormat, Secret, State};

/// A webhook endpoint, with its settings and status.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    /// The endpoint's id.
    #[schema(value_type = String, example = "wh_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: EndpointId,
    /// The URL that events are posted to.
    #[schema(example = "https://hooks.acme.test/mail")]
    pub url: String,
    /// The description, as given.
    #[schema(example = "Billing events")]
    pub description: String,
    /// The event types that the endpoint receives; null means all.
    #[schema(value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// Maximum concurrent requests.
    #[schema(minimum = 1, maximum = 256, example = 8)]
    pub concurrency: i16,
    /// Maximum requests per second; null means unlimited.
    #[schema(example = 100.0)]
    pub rate: Option<f64>,
    /// Maximum events in one request.
    #[schema(minimum = 1, maximum = 100, example = 1)]
    pub batch: i16,
    /// The form of the bodies and headers of deliveries.
    #[schema(value_type = PostFormat, example = "postrider")]
    pub format: String,
    /// The state of the endpoint.
    pub state: State,
    /// The cursor: every event up to this `seq` has been delivered, was filtered out, or waits for a retry.
    #[schema(example = 1201)]
    pub cursor: i64,
    /// The number of events after the cursor, of all types.
    #[schema(example = 0)]
    pub behind: i64,
    /// Deliveries that wait for a retry.
    #[schema(example = 0)]
    pub pending_retries: i64,
    /// When a delivery attempt last succeeded; null if none has.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub last_success_at: Option<DateTime<Utc>>,
    /// The error of the last failed delivery attempt; null if none has failed.
    #[schema(example = "responded with 503: upstream unavailable")]
    pub last_error: Option<String>,
    /// When delivery attempts started to fail; null if the last one succeeded. The endpoint is disabled after 5 days of
    /// failures.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub failing_since: Option<DateTime<Utc>>,
    /// The number of failed delivery attempts since `failing_since`. While the endpoint fails, only probes are sent and
    /// counted.
    #[schema(example = 0)]
    pub failures: i32,
    /// The time before which nothing is delivered, because of `Retry-After`, the rate limit or consecutive failures;
    /// null if deliveries need not wait.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub open_at: Option<DateTime<Utc>>,
    /// When the endpoint was disabled; null if it is enabled.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why the endpoint was disabled; null if it is enabled.
    #[schema(example = "the endpoint responded 410 Gone, so it wants no more events")]
    pub disabled_reason: Option<String>,
    /// The time until which requests are also signed with the previous secret; null if there is none.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub old_secret_until: Option<DateTime<Utc>>,
    /// When the endpoint was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
}

/// A webhook endpoint with a new secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookWithSecret)]
pub struct WithSecret {
    /// The webhook endpoint.
    #[serde(flatten)]
    pub webhook: WebhookView,
    /// The secret with which a Standard Webhooks library verifies requests. Shown only once.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw9X3Zf1Yq0Yk=")]
    pub secret: String,
}

/// A webhook endpoint to create.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhookBody {
    /// The URL that events are posted to: http or https, without user name, password and fragment.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: String,
    /// The event types to receive; defaults to all.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// A description: one line of up to 1,000 characters.
    #[schema(max_length = 1000, example = "Billing events")]
    pub description: Option<String>,
    /// Maximum concurrent requests; defaults to 8.
    #[schema(minimum = 1, maximum = 256, example = 8)]
    pub concurrency: Option<i16>,
    /// Maximum requests per second, from 0.00001; unlimited by default.
    #[schema(minimum = 0.00001, maximum = 100_000, example = 100.0)]
    pub rate: Option<f64>,
    /// Maximum events in one request; defaults to 1.
    #[schema(minimum = 1, maximum = 100, example = 10)]
    pub batch: Option<i16>,
    /// The form of the bodies and headers of deliveries; defaults to `postrider`.
    #[schema(example = "postrider")]
    pub format: Option<PostFormat>,
}

/// Changes to a webhook endpoint. `null` resets `events`, `description` and `rate` to their defaults; omitted fields
/// keep their value.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChangeBody {
    /// The new URL that events are posted to. Resets the failures of the old URL.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: Option<String>,
    /// The event types to receive from now on.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// A description: one line of up to 1,000 characters.
    #[schema(max_length = 1000, example = "Billing events")]
    pub description: Option<String>,
    /// Maximum concurrent requests.
    #[schema(minimum = 1, maximum = 256, example = 8)]
    pub concurrency: Option<i16>,
    /// Maximum requests per second, from 0.00001.
    #[schema(minimum = 0.00001, maximum = 100_000, example = 100.0)]
    pub rate: Option<f64>,
    /// Maximum events in one request.
    #[schema(minimum = 1, maximum = 100, example = 10)]
    pub batch: Option<i16>,
    /// The form of the bodies and headers of deliveries from now on.
    #[schema(example = "postrider")]
    pub format: Option<PostFormat>,
    /// `true` stops deliveries at the cursor. `false` continues there, and attempts the next delivery at once even if
    /// the endpoint was failing.
    #[schema(example = false)]
    pub disabled: Option<bool>,
}

impl std::fmt::Debug for WithSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithSecret").field("webhook", &self.webhook).finish_non_exhaustive()
    }
}

impl WebhookView {
    pub(super) fn from_row(row: EndpointRow, now: DateTime<Utc>) -> Self {
        let if_future = |time: Option<DateTime<Utc>>| time.filter(|time| *time > now);
        Self {
            id: EndpointId(row.id),
            url: row.url,
            description: row.description,
            events: row.events,
            concurrency: row.concurrency,
            rate: row.rate,
            batch: row.batch,
            format: row.format,
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
            open_at: if_future(row.open_at),
            disabled_at: row.disabled_at,
            disabled_reason: row.disabled_reason,
            old_secret_until: if_future(row.old_secret_until),
            created_at: row.created_at,
        }
    }

    pub(super) fn with_secret(self, secret: &Secret) -> WithSecret {
        WithSecret { webhook: self, secret: secret.expose() }
    }
}
