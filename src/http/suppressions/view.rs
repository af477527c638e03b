//! Suppressions as the API shows them, and as they are given.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::suppressions::Added;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::suppression::{Reason, Suppression};

/// An address that gets no mail. The fields, and their order, are those of an export and of an import.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
#[schema(as = Suppression)]
pub struct SuppressionView {
    /// Who gets no mail: in lower case, the domain as A-labels.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// Of which stream; null means of all.
    pub stream: Option<String>,
    /// Why.
    pub reason: Reason,
    /// What somebody wrote of it.
    pub note: Option<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Until when; null means for good.
    pub expires_at: Option<DateTime<Utc>>,
    /// The message that was the reason, where one was; it may be gone by now.
    #[schema(value_type = Option<String>, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub message_id: Option<MessageId>,
    /// The recipient of that message.
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

/// All that holds mail to one address back.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct SuppressedAddress {
    /// The address, as it is compared.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// Its entries, that of all streams first.
    pub data: Vec<SuppressionView>,
}

/// One entry, or up to 1,000 of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "it documents what accept::request::suppression reads")]
#[serde(untagged)]
pub enum SuppressionsInput {
    /// A single entry.
    One(SuppressionInput),
    /// Several entries.
    Many(Vec<SuppressionInput>),
}

/// An entry to add.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "it documents what accept::request::suppression reads")]
#[serde(untagged)]
pub enum SuppressionInput {
    /// An address, for mail of all streams and for good.
    #[schema(example = "ann@example.test")]
    Address(String),
    /// An address with what there is to say of it.
    Entry(NewSuppression),
}

/// An address that is to get no mail.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewSuppression {
    /// The bare address, in any case.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The stream that it holds for; of all streams unless given.
    pub stream: Option<String>,
    /// Why; `manual` unless given.
    pub reason: Option<Reason>,
    /// One line of up to 500 characters.
    #[schema(max_length = 500)]
    pub note: Option<String>,
    /// Until when; for good unless given.
    pub expires_at: Option<DateTime<Utc>>,
}

/// One entry to remove, or up to 1,000 of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "it documents what accept::request::suppression reads")]
#[serde(untagged)]
pub enum RemovalsInput {
    /// A single one.
    One(RemovalInput),
    /// Several.
    Many(Vec<RemovalInput>),
}

/// What to remove.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[allow(dead_code, reason = "it documents what accept::request::suppression reads")]
#[serde(untagged)]
pub enum RemovalInput {
    /// An address: all of its entries.
    #[schema(example = "ann@example.test")]
    Address(String),
    /// One of its entries.
    Entry(RemovedSuppression),
}

/// One entry of an address.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemovedSuppression {
    /// The bare address, in any case.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The entry of this stream, or `*` for the one that holds for all streams; all of them unless given.
    pub stream: Option<String>,
}

/// What adding came to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionsAdded)]
pub struct AddedView {
    /// Entries that were not there.
    pub added: u64,
    /// Entries that were there and are other now.
    pub updated: u64,
    /// Entries that stay as they were.
    pub unchanged: u64,
}

impl From<Added> for AddedView {
    fn from(Added { added, updated, unchanged }: Added) -> Self {
        Self { added, updated, unchanged }
    }
}

/// What removing came to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = SuppressionsRemoved)]
pub struct RemovedView {
    /// Entries that were there.
    pub removed: u64,
}
