//! Events and their types, as the API returns them and webhooks post them.

mod example;
mod json;
pub mod resend;
mod truncate;

use std::fmt;
use std::str::FromStr;

pub use json::{BounceView, Event, EventData, EventReceived, EventRecipient, EventSender};

use super::delivery::Status;
use super::words::words;

words! {
    /// The `type` of an event. New types may be added; ignore unknown ones.
    pub enum EventType as "EventType" {
        /// The message was accepted and is due at once. `recipients` lists all recipients.
        Accepted = "message.accepted",
        /// The message was accepted with a future `scheduled_at` (instead of `message.accepted`), or a recipient was
        /// rescheduled.
        Scheduled = "message.scheduled",
        /// The recipient was canceled before an attempt.
        Canceled = "message.canceled",
        /// An attempt failed temporarily, or `retry` requeued an uncertain recipient. `next_attempt_at` says when the
        /// next one is due.
        Deferred = "message.deferred",
        /// A relay took responsibility for the message. A bounce may still follow.
        Relayed = "message.relayed",
        /// The recipient's own mail server accepted the message, or a success report (DSN) says so.
        Delivered = "message.delivered",
        /// The message was refused permanently, by an SMTP reply or by a later bounce message.
        Bounced = "message.bounced",
        /// The retry window or `expires_at` ran out. This is not a bounce, and never suppresses an address.
        Expired = "message.expired",
        /// The address is on the suppression list; nothing was sent.
        Suppressed = "message.suppressed",
        /// The connection dropped after the message was sent and before the reply. It is an end state only if `final`
        /// is true.
        Uncertain = "message.uncertain",
        /// The recipient reported the message as spam (a feedback report, ARF).
        Complained = "message.complained",
        /// The recipient used the unsubscribe link.
        Unsubscribed = "message.unsubscribed",
        /// The content of the message was erased by request. Its states and events are kept, without the texts of replies.
        Redacted = "message.redacted",
        /// A message that was sent from SQL could not be accepted after `postrider.send` had returned its id. Nothing was
        /// sent; `response.text` has the reason.
        Rejected = "message.rejected",
        /// A message was received for an inbound route. `received` describes it; `GET /v1/received/{id}` returns its content.
        Received = "message.received",
        /// A test of a webhook endpoint (`POST /v1/webhooks/{id}/test`). Only that endpoint receives it.
        WebhookTest = "webhook.test",
        /// A webhook endpoint was disabled, because its posts failed for five days or it returned 410.
        WebhookDisabled = "webhook.disabled",
        /// An API key has used 80 % of its recipients of the day. `response.text` has the numbers.
        KeyQuotaWarning = "key.quota_warning",
        /// An API key has used all of its recipients of the day. `response.text` has the numbers.
        KeyQuotaReached = "key.quota_reached",
        /// All API keys together have used 80 % of the tenant's recipients of the day. `response.text` has the numbers.
        TenantQuotaWarning = "tenant.quota_warning",
        /// All API keys together have used all of the tenant's recipients of the day. `response.text` has the numbers.
        TenantQuotaReached = "tenant.quota_reached",
        /// The database was restored to an earlier state. The numbers before this event were skipped, and events that were
        /// read before the restore may not exist any more; `response.text` has the number of the last one that does.
        FeedRestored = "feed.restored",
    }
}

impl EventType {
    /// Returns the event type of a transition to `status`. A status that is not an end state means that an attempt
    /// failed temporarily.
    pub fn for_status(status: Status) -> Self {
        match status {
            Status::Relayed => Self::Relayed,
            Status::Delivered => Self::Delivered,
            Status::Bounced => Self::Bounced,
            Status::Expired => Self::Expired,
            Status::Suppressed => Self::Suppressed,
            Status::Canceled => Self::Canceled,
            Status::Uncertain => Self::Uncertain,
            Status::Sending | Status::Queued | Status::Deferred | Status::Scheduled => Self::Deferred,
        }
    }
}

impl EventType {
    /// Returns whether events of this type are about one recipient, and not about a whole message, a received message, a
    /// webhook endpoint, an API key, the tenant or the feed.
    pub fn has_recipient(self) -> bool {
        !matches!(
            self,
            Self::Accepted
                | Self::Scheduled
                | Self::Redacted
                | Self::Rejected
                | Self::Received
                | Self::WebhookTest
                | Self::WebhookDisabled
                | Self::KeyQuotaWarning
                | Self::KeyQuotaReached
                | Self::TenantQuotaWarning
                | Self::TenantQuotaReached
                | Self::FeedRestored
        )
    }

    /// Returns the fields of `data` that are never null in events of this type.
    pub fn required_fields(self) -> Vec<&'static str> {
        let always: &[&str] = match self {
            Self::Received => return vec!["received"],
            Self::Rejected => return vec!["message_id", "response"],
            Self::WebhookTest => return vec!["endpoint_id"],
            Self::WebhookDisabled => return vec!["endpoint_id", "response"],
            Self::KeyQuotaWarning | Self::KeyQuotaReached => return vec!["key_id", "response"],
            Self::TenantQuotaWarning | Self::TenantQuotaReached | Self::FeedRestored => return vec!["response"],
            Self::Accepted => &["recipients"],
            Self::Scheduled | Self::Deferred => &["next_attempt_at"],
            Self::Relayed | Self::Delivered | Self::Suppressed => &["response"],
            Self::Bounced => &["response", "bounce"],
            Self::Uncertain => &["response", "final"],
            Self::Complained => &["vouched"],
            Self::Canceled | Self::Expired | Self::Unsubscribed | Self::Redacted => &[],
        };
        let recipient: &[&str] = if self.has_recipient() { &["recipient_id", "recipient"] } else { &[] };
        [&["message_id", "internet_message_id", "from", "subject", "stream"], recipient, always].concat()
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that is not an event type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown event type")]
pub struct UnknownEventType;

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(text: &str) -> Result<Self, UnknownEventType> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownEventType)
    }
}
