//! Suppressions in API requests and responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::suppressions::Added;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::suppression::{Reason, Suppression};

/// A suppression. Exports and imports have the same fields in the same order.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Suppression)]
pub struct SuppressionView {
    /// The suppressed address, in lower case, the domain in A-labels.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The stream that the entry applies to; null means all streams.
    #[schema(example = "bulk")]
    pub stream: Option<String>,
    /// The reason for the suppression.
    pub reason: Reason,
    /// The note, as given; null if there is none.
    #[schema(example = "opted out by phone")]
    pub note: Option<String>,
    /// When the entry was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the entry expires; null means never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
    /// The message that led to the entry; null if none did. It may have been deleted.
    #[schema(value_type = Option<String>, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub message_id: Option<MessageId>,
    /// The recipient of that message; null if none led to the entry.
    #[schema(value_type = Option<String>, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub recipient_id: Option<RecipientId>,
}

impl From<Suppression> for SuppressionView {
    fn from(entry: Suppression) -> Self {
        Self {
            address: entry.address.to_string(),
            stream: entry.stream,
            reason: entry.reason,
            note: entry.note,
            created_at: entry.created_at,
            expires_at: entry.expires_at,
            message_id: entry.message_id,
            recipient_id: entry.recipient_id,
        }
    }
}

/// An address with its suppressions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SuppressedAddress {
    /// The address in its normalised form.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The entries of the address; the entry that applies to all streams is first.
    pub data: Vec<SuppressionView>,
}

/// One entry, or an array of up to 1,000 entries.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::suppression parses")]
#[serde(untagged)]
pub enum SuppressionsInput {
    /// A single entry.
    One(SuppressionInput),
    /// Several entries.
    Many(Vec<SuppressionInput>),
}

/// An entry to add.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::suppression parses")]
#[serde(untagged)]
pub enum SuppressionInput {
    /// An address, for all streams, without expiry.
    #[schema(example = "ann@example.test")]
    Address(String),
    /// An address with further fields.
    Entry(NewSuppression),
}

/// A suppression to add.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSuppression {
    /// The bare address; case-insensitive.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The stream that the entry applies to; defaults to all streams.
    #[schema(example = "bulk")]
    pub stream: Option<String>,
    /// The reason; defaults to `manual`.
    pub reason: Option<Reason>,
    /// A note: one line of up to 500 characters.
    #[schema(max_length = 500, example = "opted out by phone")]
    pub note: Option<String>,
    /// When the entry expires; defaults to never.
    #[schema(example = "2027-12-01T09:00:00Z")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// One entry to remove, or an array of up to 1,000 entries.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::suppression parses")]
#[serde(untagged)]
pub enum RemovalsInput {
    /// A single entry.
    One(RemovalInput),
    /// Several entries.
    Many(Vec<RemovalInput>),
}

/// An entry to remove.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request::suppression parses")]
#[serde(untagged)]
pub enum RemovalInput {
    /// An address, to remove all of its entries.
    #[schema(example = "ann@example.test")]
    Address(String),
    /// An address, to remove one or all of its entries.
    Entry(RemovedSuppression),
}

/// Entries of an address to remove.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovedSuppression {
    /// The bare address; case-insensitive.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The stream of the entry, or `*` for the entry that applies to all streams; defaults to all entries.
    #[schema(example = "bulk")]
    pub stream: Option<String>,
}

/// The result of adding suppressions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionsAdded)]
pub struct AddedView {
    /// New entries.
    #[schema(example = 2)]
    pub added: u64,
    /// Existing entries that were changed.
    #[schema(example = 0)]
    pub updated: u64,
    /// Entries that did not change.
    #[schema(example = 0)]
    pub unchanged: u64,
}

impl From<Added> for AddedView {
    fn from(Added { added, updated, unchanged }: Added) -> Self {
        Self { added, updated, unchanged }
    }
}

/// The result of removing suppressions.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionsRemoved)]
pub struct RemovedView {
    /// The number of entries that were removed.
    #[schema(example = 1)]
    pub removed: u64,
}
