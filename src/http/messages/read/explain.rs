//! `GET /v1/messages/{id}/explain`: explains the state of each recipient.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::db::events::bounces;
use crate::db::lanes::overview::Filter;
use crate::db::lanes::pauses::{self, Pauses};
use crate::db::messages::MessageRow;
use crate::db::messages::explain::{self, RecipientQueueRow};
use crate::db::suppressions::{Addressed, check};
use crate::db::{lanes, streams};
use crate::domain::address::Address;
use crate::domain::delivery::retry::Policy;
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::event::BounceView;
use crate::domain::explain::{
    Count, Explanation, Lease, NotPrepared, QueueEntry, Recipient, SmtpReply, Throughput, explain,
};
use crate::domain::id::{LaneId, MessageId, RecipientId, TenantId};
use crate::domain::key::Scope;
use crate::domain::lane::{Lane, Learned, Paused, State as LaneState, Unreachable};
use crate::domain::outcome::OnUncertain;
use crate::domain::suppression::{AddressKey, Suppression};
use crate::http::auth::Caller;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, MessageErrors};

/// The explanation of a message.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ExplainedMessage {
    /// The message's id.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// The message's status, as in `GET /v1/messages/{id}`.
    pub status: MessageStatus,
    /// The time of the explanation.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub at: DateTime<Utc>,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: String,
    /// The recipients, in the order of the request.
    pub recipients: Vec<ExplainedRecipient>,
}

/// The explanation of a recipient.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ExplainedRecipient {
    /// The recipient's id.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The recipient's role: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
    /// The recipient's state.
    pub status: Status,
    /// The number of attempts.
    #[schema(example = 1)]
    pub attempts: i16,
    /// The reason for the state, and what happens next.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// The recipient's lane; null in an end state.
    pub lane: Option<LaneRef>,
    /// How many other recipients of its lane are ahead of it; null if it is in flight, held, or in an end state.
    pub ahead: Option<Count>,
    /// The time after which no attempt starts: the end of the retry window, or the message's `expires_at`; null in an
    /// end state. The retry window does not run while its lane or stream is paused; the value then assumes that it is
    /// resumed now.
    #[schema(example = "2026-11-26T12:00:00Z")]
    pub gives_up_at: Option<DateTime<Utc>>,
    /// The host of the last attempt; null if there was none.
    #[schema(example = "mx1.example.test")]
    pub mx: Option<String>,
    /// The TLS version and cipher of the last attempt; null without TLS.
    #[schema(example = "TLSv1.3 TLS13_AES_256_GCM_SHA384")]
    pub tls: Option<String>,
    /// The classification of the bounce; null if the recipient has not bounced.
    pub bounce: Option<BounceView>,
}

/// A reference to a lane.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct LaneRef {
    /// The lane's id; null if the lane does not exist yet.
    #[schema(value_type = Option<String>, example = "lane_42")]
    pub id: Option<LaneId>,
    /// The lane's stream.
    #[schema(example = "transactional")]
    pub stream: String,
    /// The route: `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.
    #[schema(example = "relay")]
    pub route: String,
    /// The destination domain; `*` for all domains of a relay that have no separate lane.
    #[schema(example = "*")]
    pub domain: String,
    /// The state of the lane.
    pub state: LaneState,
}

impl LaneRef {
    pub(in crate::http::messages) fn new(lane: &Lane) -> Self {
        Self {
            id: (lane.id != LaneId::NONE).then_some(lane.id),
            stream: lane.stream.clone(),
            route: lane.route.clone(),
            domain: lane.domain.clone(),
            state: lane.state,
        }
    }
}

/// Explain a message
///
/// Returns for each recipient why it waits, the rule or limit that applies, the full last reply, its position in the
/// queue, an estimate of the next attempt's time, and what an operator can do. For an end state, returns the reason.
#[utoipa::path(
    get, path = "/v1/messages/{id}/explain", tag = "messages", operation_id = "explain_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The explanation", body = ExplainedMessage),
        AuthErrors, MessageErrors,
    ),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<ExplainedMessage>, ApiError> {
    caller.require(Scope::Metadata)?;
    let tenant = caller.tenant();
    let message = super::load_row(&api, &caller, id).await?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let now = api.clock.now();
    let rows = explain::recipients(&api.db, tenant, id, now).await?;
    let mut context = ExplainContext::load(&api, tenant, &message, &rows, now).await?;
    let mut entries = suppressions(&api, tenant, &message, &rows, now).await?;
    if caller.sender_domains().is_some() {
        // Lanes and suppressions are shared by all senders, so hide operators' notes and the replies to other senders'
        // messages.
        context.lanes = context.lanes.drain().map(|(id, lane)| (id, without_replies_and_reasons(lane))).collect();
        entries.values_mut().for_each(without_origin);
    }
    let has_bounced = rows.iter().any(|row| row.status == Status::Bounced.as_str());
    let mut bounces = if has_bounced { bounces::of_messages(&api.db, tenant, &[id.0]).await? } else { HashMap::new() };
    let recipients: Vec<ExplainedRecipient> = rows
        .into_iter()
        .map(|row| {
            let end = (entries.remove(&row.id), bounces.remove(&row.id));
            context.explain(tenant, &message, end, row, now)
        })
        .collect();
    Ok(Json(ExplainedMessage {
        id,
        status: MessageStatus::from_recipients(recipients.iter().map(|recipient| recipient.status)),
        at: now,
        stream: message.stream,
        recipients,
    }))
}

/// Removes the destination's replies from a lane, since they may be about another sender's message, and the operators'
/// reasons for a pause.
pub(in crate::http::messages) fn without_replies_and_reasons(mut lane: Lane) -> Lane {
    lane.unreachable = lane.unreachable.map(|unreachable| Unreachable { reply: None, host: None, ..unreachable });
    lane.learned = lane.learned.map(|learned| Learned { reply: None, ..learned });
    lane.paused = lane.paused.map(Paused::without_reason);
    lane.stream_limits.paused = lane.stream_limits.paused.map(Paused::without_reason);
    lane.stream_limits.suspended = lane.stream_limits.suspended.map(Paused::without_reason);
    lane
}

/// Removes the note of a suppression, and the message and recipient that led to it, since they may be another sender's.
pub(in crate::http::messages) fn without_origin(entry: &mut Suppression) {
    (entry.note, entry.message_id, entry.recipient_id) = (None, None, None);
}

/// Returns the current suppressions of the recipients that were suppressed or bounced.
async fn suppressions(
    api: &Api,
    tenant: TenantId,
    message: &MessageRow,
    rows: &[RecipientQueueRow],
    now: DateTime<Utc>,
) -> Result<HashMap<Uuid, Suppression>, ApiError> {
    let suppressed = rows
        .iter()
        .filter(|row| [Status::Suppressed.as_str(), Status::Bounced.as_str()].contains(&row.status.as_str()));
    let (ids, addressed): (Vec<Uuid>, Vec<Addressed<'_>>) = suppressed
        .filter_map(|row| {
            let address = AddressKey::from(&row.address.parse::<Address>().ok()?);
            Some((row.id, Addressed { tenant, address, stream: &message.stream, at: now }))
        })
        .unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found = check(&api.db, &addressed).await?;
    Ok(found.into_iter().filter_map(|(index, entry)| Some((*ids.get(index)?, entry))).collect())
}

/// The data that explains the states of a message's recipients.
struct ExplainContext {
    lanes: HashMap<i64, Lane>,
    ahead: HashMap<Uuid, Count>,
    throughputs: HashMap<i64, Throughput>,
    pauses: Pauses,
    policy: Policy,
    has_workers: bool,
    guarded_since: Option<DateTime<Utc>>,
    /// Seconds without a heartbeat after which a worker counts as dead.
    lease_seconds: f64,
}

impl ExplainContext {
    async fn load(
        api: &Api,
        tenant: TenantId,
        message: &MessageRow,
        rows: &[RecipientQueueRow],
        now: DateTime<Utc>,
    ) -> Result<Self, ApiError> {
        let mut ids: Vec<i64> = rows.iter().filter_map(|row| row.lane_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let stream = streams::get(&api.db, tenant, &message.stream).await?;
        let mut context = Self {
            lanes: HashMap::new(),
            ahead: HashMap::new(),
            throughputs: HashMap::new(),
            pauses: Pauses::default(),
            policy: stream.map_or_else(|| api.delivery.policy.clone(), |row| api.delivery.policy.with(&row.retry)),
            has_workers: true,
            guarded_since: api.restore_gate.blocked_since(),
            lease_seconds: api.delivery.lease.as_secs_f64(),
        };
        if ids.is_empty() {
            return Ok(context);
        }
        context.pauses = pauses::all(&api.db, now).await?;
        context.has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
        context.ahead = explain::ahead(&api.db, tenant, MessageId(message.id), rows.len()).await?.into_iter().collect();
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let filter = Filter { ids: Some(ids), ..Filter::default() };
        for lane in lanes::overview::lanes(&api.db, tenant, &filter, limit, now).await? {
            let is_behind_others = |row: &&RecipientQueueRow| {
                row.lane_id == Some(lane.id.0) && context.ahead.get(&row.id).is_some_and(|ahead| ahead.number > 0)
            };
            // Measures the throughput only if an estimate needs it.
            if lane.effective_rate().is_none()
                && context.throughputs.len() < MAX_MEASURED_LANES
                && rows.iter().any(|row| is_behind_others(&row))
            {
                let relays = api.delivery.hosts(&lane.route);
                context.throughputs.insert(lane.id.0, explain::throughput(&api.db, tenant, &lane, &relays, now).await?);
            }
            context.lanes.insert(lane.id.0, lane);
        }
        Ok(context)
    }

    fn explain(
        &self,
        tenant: TenantId,
        message: &MessageRow,
        (suppression, bounce): (Option<Suppression>, Option<BounceView>),
        row: RecipientQueueRow,
        now: DateTime<Utc>,
    ) -> ExplainedRecipient {
        let queue_entry = self.queue_entry(tenant, message, &row, now);
        // A CHECK constraint limits the values. A status that this version does not know was written by a later
        // version; it is treated as not final.
        let status = row.status.parse().unwrap_or(Status::Queued);
        let recipient = Recipient {
            message: MessageId(message.id),
            status,
            attempts: row.attempts,
            created_at: message.created_at,
            last_attempt_at: row.last_attempt_at,
            finished_at: row.finished_at,
            reported_at: row.reported_at,
            complained_at: row.complained_at,
            reply: SmtpReply::from_row(row.response_code, row.response_enhanced, row.response_text),
            mx: row.mx,
            tls: row.tls,
            on_uncertain: message.on_uncertain.parse().unwrap_or(OnUncertain::Retry),
            expires_at: message.expires_at,
            suppression,
            bounce,
        };
        ExplainedRecipient {
            id: RecipientId(row.id),
            address: row.address,
            kind: row.kind,
            status,
            attempts: recipient.attempts,
            explanation: explain(&recipient, queue_entry.as_ref(), now),
            lane: queue_entry.as_ref().map(|queue_entry| LaneRef::new(&queue_entry.lane)),
            ahead: self.ahead.get(&row.id).copied().filter(|_| !status.is_end()),
            gives_up_at: queue_entry.map(|queue_entry| queue_entry.gives_up_at),
            mx: recipient.mx,
            tls: recipient.tls,
            bounce: recipient.bounce,
        }
    }

    /// Returns the queue entry of a recipient; `None` in an end state.
    fn queue_entry(
        &self,
        tenant: TenantId,
        message: &MessageRow,
        row: &RecipientQueueRow,
        now: DateTime<Utc>,
    ) -> Option<QueueEntry> {
        let lane = self.lanes.get(&row.lane_id?)?;
        let first_due_at = row.first_due_at?;
        let paused = self.pauses.paused_time((tenant.0, &message.stream), lane.id.0, first_due_at, now);
        Some(QueueEntry {
            lane: lane.clone(),
            due_at: row.due_at,
            gives_up_at: self.policy.deadline(first_due_at + paused, message.expires_at),
            lease: row.is_leased.then(|| Lease {
                host: row.worker.clone(),
                silence: row.silence.unwrap_or_default(),
                term: self.lease_seconds,
            }),
            crashes: row.crashes.unwrap_or(0),
            held: row.held.clone(),
            is_rescheduled: row.due_at > row.first_due_at,
            unprepared: row
                .preparation_error
                .clone()
                .zip(row.preparation_failed_at)
                .map(|(error, since)| NotPrepared { error, since }),
            ahead: self.ahead.get(&row.id).copied(),
            throughput: self.throughputs.get(&lane.id.0).copied(),
            has_workers: self.has_workers,
            guarded_since: self.guarded_since,
        })
    }
}

/// Maximum lanes whose throughput is measured for one message: each needs a query of the newest events.
const MAX_MEASURED_LANES: usize = 10;
