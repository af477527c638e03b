//! Bulks as the API shows them.

use chrono::{DateTime, Utc};
use serde::{Deserialize as _, Serialize};
use serde_json::Value;

use crate::accept::request::batch::Refused;
use crate::db::messages::bulks::{BulkRow, StatusCountRow};
use crate::domain::id::{BulkId, TemplateId};
use crate::domain::message::Warning;
use crate::domain::message::bulk::{BulkState, SharedMessage};

/// The response to an accepted bulk.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptedBulk {
    /// The id of the bulk.
    #[schema(value_type = String, example = "blk_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: BulkId,
    /// The number of recipients that become messages.
    #[schema(example = 9_998)]
    pub accepted: usize,
    /// The number of refused recipients; `errors` lists them.
    #[schema(example = 2)]
    pub rejected: usize,
    /// The number of recipients to which nothing is sent, because an earlier message with the same `idempotency_key` was
    /// accepted.
    #[schema(example = 0)]
    pub replayed: usize,
    /// The refused recipients, in the order of the request.
    #[schema(value_type = Vec<Refused>)]
    pub errors: Value,
    /// Problems that may affect delivery, and variables that the template does not declare, at most 20. Omitted if there are
    /// none, and if a request is repeated with its `Idempotency-Key`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// The state of a bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BulkStatus {
    /// Its messages wait for `scheduled_at`.
    Scheduled,
    /// Its messages are being sent.
    Sending,
    /// Nothing is sent until it is resumed.
    Paused,
    /// It was canceled: nothing more is sent.
    Canceled,
    /// All recipients have reached an end state.
    Completed,
}

/// A bulk.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Bulk)]
pub struct BulkView {
    /// The id of the bulk.
    #[schema(value_type = String, example = "blk_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: BulkId,
    /// The state of the bulk.
    pub status: BulkStatus,
    /// When the bulk was accepted.
    pub created_at: DateTime<Utc>,
    /// When the bulk was paused, resumed or canceled last; otherwise when it was accepted.
    pub status_changed_at: DateTime<Utc>,
    /// The stream.
    #[schema(example = "bulk")]
    pub stream: String,
    /// The domain of the sender.
    #[schema(example = "acme.test")]
    pub from_domain: String,
    /// The subject; null if the template renders it.
    #[schema(example = "Our news")]
    pub subject: Option<String>,
    /// The template; null if the bulk has none.
    pub template: Option<BulkTemplate>,
    /// No message is sent before this time; null without one.
    pub scheduled_at: Option<DateTime<Utc>>,
    /// The number of recipients that became messages, or will.
    #[schema(example = 9_998)]
    pub accepted: i32,
    /// The number of recipients that were refused.
    #[schema(example = 2)]
    pub rejected: i32,
    /// The number of recipients to which nothing is sent, because an earlier message with the same `idempotency_key` was
    /// accepted.
    #[schema(example = 0)]
    pub replayed: i32,
    /// The number of recipients by status; omitted in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub counts: Option<BulkCounts>,
}

/// The template of a bulk.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct BulkTemplate {
    /// The template's id.
    #[schema(value_type = String, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: TemplateId,
    /// The version that the messages are rendered from.
    #[schema(example = 3)]
    pub version: i32,
}

/// The number of a bulk's recipients by status.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BulkCounts {
    /// Waiting for `scheduled_at`.
    #[schema(example = 0)]
    pub scheduled: i64,
    /// Waiting for the first attempt.
    #[schema(example = 4_000)]
    pub queued: i64,
    /// Being sent.
    #[schema(example = 64)]
    pub sending: i64,
    /// Waiting for another attempt after a temporary failure.
    #[schema(example = 12)]
    pub deferred: i64,
    /// Accepted by a relay.
    #[schema(example = 5_000)]
    pub relayed: i64,
    /// Accepted by the recipient's mail server.
    #[schema(example = 880)]
    pub delivered: i64,
    /// Refused permanently.
    #[schema(example = 30)]
    pub bounced: i64,
    /// Not delivered in time.
    #[schema(example = 0)]
    pub expired: i64,
    /// Not sent, because the address is on the suppression list.
    #[schema(example = 12)]
    pub suppressed: i64,
    /// Canceled.
    #[schema(example = 0)]
    pub canceled: i64,
    /// The connection dropped before the final reply.
    #[schema(example = 0)]
    pub uncertain: i64,
}

impl AcceptedBulk {
    /// Creates the response to a repeated request, with the refused recipients.
    pub(super) fn from_row(row: &BulkRow, refused: Value) -> Self {
        let number = |count: i32| usize::try_from(count).unwrap_or(0);
        Self {
            id: BulkId(row.id),
            accepted: number(row.accepted),
            rejected: number(row.rejected),
            replayed: number(row.replayed),
            errors: refused,
            warnings: Vec::new(),
        }
    }
}

impl BulkView {
    /// Creates the view of a bulk. `is_ended` says whether all recipients have reached an end state.
    pub(super) fn new(row: BulkRow, is_ended: bool, counts: Option<BulkCounts>, now: DateTime<Utc>) -> Self {
        let status = match row.state.parse() {
            Ok(BulkState::Canceled) => BulkStatus::Canceled,
            _ if is_ended => BulkStatus::Completed,
            Ok(BulkState::Paused) => BulkStatus::Paused,
            _ if row.scheduled_at.is_some_and(|at| at > now) => BulkStatus::Scheduled,
            _ => BulkStatus::Sending,
        };
        let template = row.template_id.zip(row.template_version);
        Self {
            id: BulkId(row.id),
            status,
            created_at: row.created_at,
            status_changed_at: row.state_changed_at,
            rejected: row.rejected,
            subject: SharedMessage::deserialize(&row.message).ok().and_then(|message| message.subject),
            stream: row.stream,
            from_domain: row.from_domain,
            template: template.map(|(id, version)| BulkTemplate { id: TemplateId(id), version }),
            scheduled_at: row.scheduled_at,
            accepted: row.accepted,
            replayed: row.replayed,
            counts,
        }
    }
}

impl BulkCounts {
    /// Creates the counts from those of the messages and from `waiting`, the number of recipients that have no message
    /// yet.
    pub(super) fn new(rows: Vec<StatusCountRow>, waiting: i64, bulk: &BulkRow, now: DateTime<Utc>) -> Self {
        let mut counts = Self::default();
        match bulk.state.parse() {
            Ok(BulkState::Canceled) => counts.canceled = waiting,
            _ if bulk.scheduled_at.is_some_and(|at| at > now) => counts.scheduled = waiting,
            _ => counts.queued = waiting,
        }
        for StatusCountRow { status, recipients } in rows {
            let count = match status.as_str() {
                "scheduled" => &mut counts.scheduled,
                "sending" => &mut counts.sending,
                "deferred" => &mut counts.deferred,
                "relayed" => &mut counts.relayed,
                "delivered" => &mut counts.delivered,
                "bounced" => &mut counts.bounced,
                "expired" => &mut counts.expired,
                "suppressed" => &mut counts.suppressed,
                "canceled" => &mut counts.canceled,
                "uncertain" => &mut counts.uncertain,
                _ => &mut counts.queued,
            };
            *count += recipients;
        }
        counts
    }

    /// Returns whether all recipients have reached an end state.
    pub(super) fn are_ended(&self) -> bool {
        self.scheduled + self.queued + self.sending + self.deferred == 0
    }
}
