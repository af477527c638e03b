//! Bulks: one message to many recipients, each of which becomes a message of its own.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Tag;
use crate::domain::address::Mailbox;
use crate::domain::id::BulkId;
use crate::domain::outcome::OnUncertain;

/// Maximum number of recipients of a bulk.
pub const MAX_RECIPIENTS: usize = 10_000;

/// The state that a caller has chosen for a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BulkState {
    /// Its messages are sent.
    Active,
    /// Nothing is sent until it is resumed.
    Paused,
    /// Nothing more is sent.
    Canceled,
}

impl BulkState {
    /// Returns the state's name in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Canceled => "canceled",
        }
    }
}

impl std::str::FromStr for BulkState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Active, Self::Paused, Self::Canceled].into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// A mailbox as it is stored in JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredMailbox {
    /// The address.
    pub email: String,
    /// The display name.
    pub name: Option<String>,
}

impl From<&Mailbox> for StoredMailbox {
    fn from(mailbox: &Mailbox) -> Self {
        Self { email: mailbox.address.to_string(), name: mailbox.name.clone() }
    }
}

impl StoredMailbox {
    /// Returns the mailbox; `None` if its address is not valid.
    pub fn into_mailbox(self) -> Option<Mailbox> {
        Some(Mailbox { address: self.email.parse().ok()?, name: self.name })
    }
}

/// What the messages of a bulk have in common besides their content. Stored as JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SharedMessage {
    /// The sender; `None`: the template renders it.
    pub from: Option<StoredMailbox>,
    /// Addresses for replies; `None`: the template renders them.
    pub reply_to: Option<Vec<StoredMailbox>>,
    /// The subject; `None`: the template renders it.
    pub subject: Option<String>,
    /// Tags.
    pub tags: Vec<Tag>,
    /// Metadata; a recipient's own entry replaces one of the same name.
    pub metadata: Map<String, Value>,
    /// No attempt starts after this time.
    pub expires_at: Option<DateTime<Utc>>,
    /// `retry`, `hold` or `fail`.
    pub on_uncertain: String,
    /// Whether the messages are also sent to suppressed addresses.
    pub ignore_suppression: bool,
}

impl SharedMessage {
    /// Returns what to do if the connection drops after the final dot.
    pub fn on_uncertain(&self) -> OnUncertain {
        self.on_uncertain.parse().unwrap_or_default()
    }
}

/// The data that a message gets from its bulk.
#[derive(Debug, Clone, PartialEq)]
pub struct BulkMember {
    /// The bulk.
    pub bulk: BulkId,
    /// The content that it shares with the other messages of the bulk (`contents.id`).
    pub content: uuid::Uuid,
    /// Its own template variables; `None`: the bulk has no template, and the bodies are only in the stored content.
    pub variables: Option<Value>,
    /// The size in bytes of the text and the HTML, which are only in the stored content or rendered when the message is sent.
    pub stored_size: u64,
}
