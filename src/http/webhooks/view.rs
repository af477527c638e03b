//! An endpoint as the API shows it, and as it is set.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::webhooks::EndpointRow;
use crate::domain::endpoint::{Secret, State};
use crate::domain::event::EventType;
use crate::domain::id::EndpointId;

/// Where events are posted, and how that goes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Webhook)]
pub struct WebhookView {
    /// Its id.
    #[schema(value_type = String, example = "wh_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: EndpointId,
    /// Where its events are posted.
    #[schema(example = "https://hooks.acme.test/mail")]
    pub url: String,
    /// What you wrote of it.
    pub description: String,
    /// The types of events that it gets; null means all.
    #[schema(value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// Posts to it at one time.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: i16,
    /// Posts a second; null means as many as it takes.
    pub rate: Option<f64>,
    /// Events in one post.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: i16,
    /// Whether it gets its events.
    pub state: State,
    /// The `seq` up to which every event was posted, was not wanted, or waits for another try.
    pub cursor: i64,
    /// Events behind the cursor, of all types: how far it lags.
    pub behind: i64,
    /// Posts that failed and wait for another try.
    pub pending_retries: i64,
    /// When a post last succeeded; null where none has.
    pub last_success_at: Option<DateTime<Utc>>,
    /// What the last failed post came to.
    #[schema(example = "answered 503 Service Unavailable")]
    pub last_error: Option<String>,
    /// Since when no post has succeeded, where the last one failed. After 5 days it is disabled.
    pub failing_since: Option<DateTime<Utc>>,
    /// How many posts have failed since; while it is down only those that find out whether it still is.
    pub failures: i32,
    /// Nothing is posted before then: it asked for time, has had what its rate allows, or failed several times in a row.
    pub open_at: Option<DateTime<Utc>>,
    /// Since when nothing is posted, until somebody enables it.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Why.
    pub disabled_reason: Option<String>,
    /// Until when posts are signed with the secret before the present one as well.
    pub old_secret_until: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// An endpoint with a secret that was just made.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookWithSecret)]
pub struct WithSecret {
    /// The endpoint.
    #[serde(flatten)]
    pub webhook: WebhookView,
    /// What a Standard Webhooks library verifies posts with. Shown now and never again.
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw9X3Zf1Yq0Yk=")]
    pub secret: String,
}

/// A new endpoint.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhookBody {
    /// Where to post: http or https, without name, password and fragment.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: String,
    /// The types of events that it gets; all unless given.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// One line for people.
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Posts at one time. 8 unless given.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: Option<i16>,
    /// Posts a second, from 0.00001; as many as it takes unless given.
    #[schema(minimum = 0.00001, maximum = 100_000)]
    pub rate: Option<f64>,
    /// Events in one post. 1 unless given.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: Option<i16>,
}

/// Changes to an endpoint. `null` makes `events`, `description` and `rate` as if they had not been given; what is missing
/// stays.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookChangeBody {
    /// Where to post from now on. What failed elsewhere is forgotten.
    #[schema(example = "https://hooks.acme.test/mail", max_length = 2048)]
    pub url: Option<String>,
    /// The types of events that it gets from now on.
    #[schema(min_items = 1, value_type = Option<Vec<EventType>>, example = json!(["message.bounced", "message.complained"]))]
    pub events: Option<Vec<String>>,
    /// One line for people.
    #[schema(max_length = 1000)]
    pub description: Option<String>,
    /// Posts at one time.
    #[schema(minimum = 1, maximum = 256)]
    pub concurrency: Option<i16>,
    /// Posts a second, from 0.00001.
    #[schema(minimum = 0.00001, maximum = 100_000)]
    pub rate: Option<f64>,
    /// Events in one post.
    #[schema(minimum = 1, maximum = 100)]
    pub batch: Option<i16>,
    /// `true` stops it where it is. `false` lets it go on from there, and one that is failing is tried at once.
    pub disabled: Option<bool>,
}

impl std::fmt::Debug for WithSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WithSecret").field("webhook", &self.webhook).finish_non_exhaustive()
    }
}

impl WebhookView {
    pub(super) fn of(row: EndpointRow, now: DateTime<Utc>) -> Self {
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
