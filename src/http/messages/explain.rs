//! `GET /v1/messages/{id}/explain`: why each recipient is where it is.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

use crate::db::events::bounces;
use crate::db::lanes;
use crate::db::lanes::overview::Filter;
use crate::db::lanes::pauses::{self, Pauses};
use crate::db::messages::MessageRow;
use crate::db::messages::explain::{self, PlaceRow};
use crate::db::streams;
use crate::db::suppressions::{Addressed, check};
use crate::domain::address::Address;
use crate::domain::delivery::{MessageStatus, Status};
use crate::domain::event::BounceSaid;
use crate::domain::explain::{Count, Explanation, Lease, NotPrepared, Pace, Place, Recipient, Said, explain};
use crate::domain::id::{LaneId, MessageId, RecipientId, TenantId};
use crate::domain::key::Scope;
use crate::domain::lane::{Blocked, Lane, Learned, State as LaneState};
use crate::domain::outcome::OnUncertain;
use crate::domain::retry::Policy;
use crate::domain::suppression::{AddressKey, Suppression};
use crate::http::auth::Caller;
use crate::http::params::PathId;
use crate::http::{Api, ApiError, Problem};

/// A message explained.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ExplainedMessage {
    /// The message.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// As in `GET /v1/messages/{id}`.
    pub status: MessageStatus,
    /// When this was so.
    pub at: DateTime<Utc>,
    /// In which stream it travels.
    pub stream: String,
    /// Everyone it goes to, in the order of the request.
    pub recipients: Vec<ExplainedRecipient>,
}

/// A recipient explained.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ExplainedRecipient {
    /// The recipient.
    #[schema(value_type = String, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: RecipientId,
    /// Its address.
    pub address: String,
    /// `to`, `cc` or `bcc`.
    pub kind: String,
    /// Where it is.
    pub status: Status,
    /// Attempts made.
    pub attempts: i16,
    /// Why it is there, and what comes next.
    #[serde(flatten)]
    pub explanation: Explanation,
    /// Where it waits; null once it has ended.
    pub lane: Option<LaneRef>,
    /// How many other mails of its lane go before it; null where it is in flight, held, or has ended.
    pub ahead: Option<Count>,
    /// No attempt starts after that: the end of the retry window, or the message's `expires_at`; null once it has ended. The
    /// retry window does not run while its lane or stream is paused: this is then as if it were resumed now.
    pub gives_up_at: Option<DateTime<Utc>>,
    /// Host last spoken to.
    pub mx: Option<String>,
    /// TLS version and cipher last used; null for plain text.
    pub tls: Option<String>,
    /// What the refusal means, where it bounced.
    pub bounce: Option<BounceSaid>,
}

/// A lane in short.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct LaneRef {
    /// The lane; null where it does not exist yet.
    #[schema(value_type = Option<String>, example = "lane_42")]
    pub id: Option<LaneId>,
    /// In which stream.
    pub stream: String,
    /// `mx`, `relay` or `relay:NAME`.
    pub route: String,
    /// Destination domain; `*` for all that goes through a relay.
    pub domain: String,
    /// Whether it moves.
    pub state: LaneState,
}

impl LaneRef {
    pub(super) fn of(lane: &Lane) -> Self {
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
/// For each recipient: what holds it, which rule or limit that is, the last reply in full, how many go before it, when the
/// next attempt may be expected and how one knows, and what would help. For one that has ended: why.
#[utoipa::path(
    get, path = "/v1/messages/{id}/explain", tag = "messages", operation_id = "explain_message",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "Why each recipient is where it is", body = ExplainedMessage),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<MessageId>,
) -> Result<Json<ExplainedMessage>, ApiError> {
    caller.may(Scope::Read)?;
    let tenant = caller.tenant();
    let message = super::read::row(&api, &caller, id).await?;
    let _turn = api.turns.take(caller.key_id()).await?;
    let now = api.clock.now();
    let rows = explain::places(&api.db, tenant, id, now).await?;
    let mut places = Surroundings::of(&api, tenant, &message, &rows, now).await?;
    let mut entries = suppressions(&api, tenant, &message, &rows, now).await?;
    if caller.sender_domains().is_some() {
        // Lanes and suppressions are shared: what was said about other senders' messages stays theirs.
        places.lanes = places.lanes.drain().map(|(id, lane)| (id, without_replies(lane))).collect();
        entries.values_mut().for_each(without_origin);
    }
    let has_bounced = rows.iter().any(|row| row.status == Status::Bounced.as_str());
    let mut bounces = if has_bounced { bounces::of_messages(&api.db, tenant, &[id.0]).await? } else { HashMap::new() };
    let recipients: Vec<ExplainedRecipient> = rows
        .into_iter()
        .map(|row| {
            let ended = (entries.remove(&row.id), bounces.remove(&row.id));
            places.explain(tenant, &message, ended, row, now)
        })
        .collect();
    Ok(Json(ExplainedMessage {
        id,
        status: MessageStatus::of(recipients.iter().map(|recipient| recipient.status)),
        at: now,
        stream: message.stream,
        recipients,
    }))
}

/// A lane without what its destination replied, which may be about another sender's message.
pub(super) fn without_replies(mut lane: Lane) -> Lane {
    lane.blocked = lane.blocked.map(|blocked| Blocked { reply: None, host: None, ..blocked });
    lane.learned = lane.learned.map(|learned| Learned { reply: None, ..learned });
    lane
}

/// A suppression without the message that led to it, which may be another sender's.
pub(super) fn without_origin(entry: &mut Suppression) {
    (entry.note, entry.message_id, entry.recipient_id) = (None, None, None);
}

/// The entries that suppress, as of now, those of the recipients who were suppressed or bounced.
async fn suppressions(
    api: &Api,
    tenant: TenantId,
    message: &MessageRow,
    rows: &[PlaceRow],
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
    Ok(found.into_iter().filter_map(|(place, entry)| Some((*ids.get(place)?, entry))).collect())
}

/// What is around a message's recipients.
struct Surroundings {
    lanes: HashMap<i64, Lane>,
    ahead: HashMap<Uuid, Count>,
    paces: HashMap<i64, Pace>,
    pauses: Pauses,
    policy: Policy,
    has_workers: bool,
    /// Seconds without a word after which a worker counts as gone.
    term: f64,
}

impl Surroundings {
    async fn of(
        api: &Api,
        tenant: TenantId,
        message: &MessageRow,
        rows: &[PlaceRow],
        now: DateTime<Utc>,
    ) -> Result<Self, ApiError> {
        let mut ids: Vec<i64> = rows.iter().filter_map(|row| row.lane_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let stream = streams::get(&api.db, tenant, &message.stream).await?;
        let mut places = Self {
            lanes: HashMap::new(),
            ahead: HashMap::new(),
            paces: HashMap::new(),
            pauses: Pauses::default(),
            policy: stream.map_or_else(|| api.delivery.policy.clone(), |row| api.delivery.policy.with(&row.retry)),
            has_workers: true,
            term: api.delivery.lease.as_secs_f64(),
        };
        if ids.is_empty() {
            return Ok(places);
        }
        places.pauses = pauses::all(&api.db, now).await?;
        places.has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
        places.ahead = explain::ahead(&api.db, tenant, MessageId(message.id), rows.len()).await?.into_iter().collect();
        let limit = i64::try_from(ids.len()).unwrap_or(i64::MAX);
        let filter = Filter { ids: Some(ids), ..Filter::default() };
        for lane in lanes::overview::lanes(&api.db, tenant, &filter, limit, now).await? {
            let stands = |row: &&PlaceRow| {
                row.lane_id == Some(lane.id.0) && places.ahead.get(&row.id).is_some_and(|ahead| ahead.number > 0)
            };
            // Only where a guess will need it.
            if lane.effective_rate().is_none() && places.paces.len() < PACES && rows.iter().any(|row| stands(&row)) {
                let relays = api.delivery.hosts(&lane.route);
                places.paces.insert(lane.id.0, explain::pace(&api.db, tenant, &lane, &relays, now).await?);
            }
            places.lanes.insert(lane.id.0, lane);
        }
        Ok(places)
    }

    fn explain(
        &self,
        tenant: TenantId,
        message: &MessageRow,
        (suppression, bounce): (Option<Suppression>, Option<BounceSaid>),
        row: PlaceRow,
        now: DateTime<Utc>,
    ) -> ExplainedRecipient {
        let place = self.place(tenant, message, &row, now);
        // The column is checked; a word that this version does not know is one that waits.
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
            reply: Said::of(row.response_code, row.response_enhanced, row.response_text),
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
            explanation: explain(&recipient, place.as_ref(), now),
            lane: place.as_ref().map(|place| LaneRef::of(&place.lane)),
            ahead: self.ahead.get(&row.id).copied().filter(|_| !status.is_end()),
            gives_up_at: place.map(|place| place.gives_up_at),
            mx: recipient.mx,
            tls: recipient.tls,
            bounce: recipient.bounce,
        }
    }

    fn place(&self, tenant: TenantId, message: &MessageRow, row: &PlaceRow, now: DateTime<Utc>) -> Option<Place> {
        let lane = self.lanes.get(&row.lane_id?)?;
        let first_due_at = row.first_due_at?;
        let paused = self.pauses.paused_time((tenant.0, &message.stream), lane.id.0, first_due_at, now);
        Some(Place {
            lane: lane.clone(),
            due_at: row.due_at,
            gives_up_at: self.policy.deadline(first_due_at + paused, message.expires_at),
            lease: row.is_leased.then(|| Lease {
                host: row.worker.clone(),
                silence: row.silence.unwrap_or_default(),
                term: self.term,
            }),
            crashes: row.crashes.unwrap_or(0),
            held: row.held.clone(),
            is_put_off: row.due_at > row.first_due_at,
            unprepared: row
                .preparation_error
                .clone()
                .zip(row.preparation_failed_at)
                .map(|(error, since)| NotPrepared { error, since }),
            ahead: self.ahead.get(&row.id).copied(),
            pace: self.paces.get(&lane.id.0).copied(),
            has_workers: self.has_workers,
        })
    }
}

/// Lanes whose pace is measured for one message: each takes a look at the newest events.
const PACES: usize = 10;
