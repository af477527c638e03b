//! Erasures as the API shows them.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::erasures::{ErasureRow, Preview};
use crate::domain::id::{ErasureId, KeyId};
use crate::domain::records::erasure::{ErasedCounts, ErasurePhase, ErasureStatus};

/// A request to erase everything about an address.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[allow(dead_code, reason = "only the OpenAPI schema of what accept::request parses")]
#[schema(as = ErasureRequest)]
pub struct ErasureRequestBody {
    /// The bare address; case-insensitive.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// `true`: only count what is stored, and change nothing.
    #[schema(default = false, example = false)]
    pub dry_run: Option<bool>,
}

/// The result of a dry run: what is stored about the address. Logs, idempotency keys, received messages and
/// messages sent from SQL are not counted.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ErasurePreview {
    /// Messages to the address.
    #[schema(example = 12)]
    pub messages: i64,
    /// Recipients with the address.
    #[schema(example = 12)]
    pub recipients: i64,
    /// Of these, recipients that are still to be sent to.
    #[schema(example = 1)]
    pub queued: i64,
    /// Recipients of bulks that are not messages yet.
    #[schema(example = 0)]
    pub bulk_recipients: i64,
    /// Entries of the suppression list.
    #[schema(example = 1)]
    pub suppressions: i64,
}

impl From<Preview> for ErasurePreview {
    fn from(preview: Preview) -> Self {
        let Preview { messages, recipients, queued, bulk_recipients, suppressions } = preview;
        Self { messages, recipients, queued, bulk_recipients, suppressions }
    }
}

/// The erasure of everything about an address, and its progress. It does not show the address.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Erasure)]
pub struct ErasureView {
    /// The id of the erasure.
    #[schema(value_type = String, example = "era_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: ErasureId,
    /// What replaces the address, in messages and on the suppression list: a keyed hash. Erasing the same address again leads to the same one.
    #[schema(example = "erased-5f0c1d2e3b4a59687786a5b4c3d2e1f0@erased.invalid")]
    pub pseudonym: String,
    /// The state of the erasure.
    #[schema(value_type = ErasureStatus)]
    pub status: String,
    /// What is examined at present; of an erasure that has ended, what was examined last.
    #[schema(value_type = ErasurePhase)]
    pub phase: String,
    /// The API key that started it.
    #[schema(value_type = String, example = "key_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub key_id: KeyId,
    /// When it was accepted.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When it ended; null while it is running.
    #[schema(example = "2026-12-01T09:00:21Z")]
    pub finished_at: Option<DateTime<Utc>>,
    /// How much was erased.
    pub erased: ErasedCounts,
    /// The number of messages that are erased once all of their recipients have reached an end state, and of running actions on messages that
    /// have the address in their filter, when they were last examined.
    #[schema(example = 0)]
    pub waiting: i64,
    /// The error of the last try; null if it succeeded. A running erasure is tried again.
    #[schema(example = "the database did not respond in time")]
    pub error: Option<String>,
}

impl From<ErasureRow> for ErasureView {
    fn from(row: ErasureRow) -> Self {
        Self {
            id: ErasureId(row.id),
            pseudonym: row.pseudonym,
            status: row.status,
            phase: row.phase,
            key_id: KeyId(row.key_id),
            created_at: row.created_at,
            finished_at: row.finished_at,
            // An older version may have stored other counts.
            erased: ErasedCounts::from_column(row.counts).unwrap_or_default(),
            waiting: row.waiting,
            error: row.error,
        }
    }
}
