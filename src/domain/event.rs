//! Events and their kinds, as applications see them.

mod fit;
mod shown;

use std::fmt;
use std::str::FromStr;

pub use shown::{BounceSaid, Event, EventData, EventRecipient, EventSender};

use super::delivery::Status;

/// What happened; the `type` of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// A message was committed.
    Accepted,
    /// A message was committed for later.
    Scheduled,
    /// A recipient was called back.
    Canceled,
    /// An attempt failed for now.
    Deferred,
    /// A relay took the mail.
    Relayed,
    /// The recipient's own server took the mail.
    Delivered,
    /// The mail was refused for good.
    Bounced,
    /// Time ran out.
    Expired,
    /// The address is on the suppression list.
    Suppressed,
    /// The link died after the final dot.
    Uncertain,
    /// The recipient called the mail spam.
    Complained,
    /// The recipient wants no more of it.
    Unsubscribed,
    /// Somebody tries a webhook endpoint out.
    WebhookTest,
    /// A webhook endpoint failed for too long, or wants no more.
    WebhookDisabled,
}

impl EventType {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Accepted,
        Self::Scheduled,
        Self::Canceled,
        Self::Deferred,
        Self::Relayed,
        Self::Delivered,
        Self::Bounced,
        Self::Expired,
        Self::Suppressed,
        Self::Uncertain,
        Self::Complained,
        Self::Unsubscribed,
        Self::WebhookTest,
        Self::WebhookDisabled,
    ];

    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "message.accepted",
            Self::Scheduled => "message.scheduled",
            Self::Canceled => "message.canceled",
            Self::Deferred => "message.deferred",
            Self::Relayed => "message.relayed",
            Self::Delivered => "message.delivered",
            Self::Bounced => "message.bounced",
            Self::Expired => "message.expired",
            Self::Suppressed => "message.suppressed",
            Self::Uncertain => "message.uncertain",
            Self::Complained => "message.complained",
            Self::Unsubscribed => "message.unsubscribed",
            Self::WebhookTest => "webhook.test",
            Self::WebhookDisabled => "webhook.disabled",
        }
    }

    /// The event of reaching `status`; a status that is no end tells of an attempt that failed for now.
    pub fn of_end(status: Status) -> Self {
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

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Not a type of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no such type of event")]
pub struct UnknownEventType;

impl FromStr for EventType {
    type Err = UnknownEventType;

    fn from_str(word: &str) -> Result<Self, UnknownEventType> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word).ok_or(UnknownEventType)
    }
}
