//! `POST /v1/messages?dry_run=true`: the delivery plan of a message that is not stored.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::Serialize;

use super::read::explain::{LaneRef, without_origin, without_replies_and_reasons};
use super::sender::{self, PlannedSignature, Warning};
use crate::db::lanes::overview::Filter;
use crate::db::messages::blobs::objects;
use crate::db::messages::explain as queue_state;
use crate::db::messages::stored::StoredMessageError;
use crate::db::suppressions::{Addressed, check};
use crate::db::{lanes, streams};
use crate::domain::delivery::Status;
use crate::domain::delivery::retry::Policy;
use crate::domain::explain::{Blocker, Count, Estimate, Explanation, QueueEntry, Recipient, SmtpReply, explain};
use crate::domain::id::{LaneId, TenantId};
use crate::domain::key::Scope;
use crate::domain::lane::{Lane, Paused, State as LaneState, StreamLimits};
use crate::domain::limits::LaneLimits;
use crate::domain::message::unsubscribe::{self, Ticket};
use crate::domain::message::{Attachment, Draft, Header, NewMessage, NewRecipient, RecipientKind};
use crate::domain::routing::{RouteName, is_simulated};
use crate::domain::sender_domain::dkim::Signer;
use crate::domain::suppression::{AddressKey, Suppression};
use crate::http::auth::Caller;
use crate::http::delivery::{Delivery, RelayView};
use crate::http::limits::memory_limit::Reservation;
use crate::http::suppressions::view::SuppressionView;
use crate::http::{Api, ApiError, response};
use crate::mail;

/// The delivery plan of a message, which is neither stored nor sent.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = MessagePlan)]
pub struct Plan {
    /// Always `true`.
    #[schema(example = true)]
    pub dry_run: bool,
    /// The time of the plan.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub at: DateTime<Utc>,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: String,
    /// The route: `mx`, `relay` or `relay:NAME`; `simulator` if all recipients are addresses of the simulator.
    #[schema(example = "relay")]
    pub route: String,
    /// The relays, in the order in which they would be tried; empty for `mx`, whose servers are looked up only when the
    /// message is sent, and for `simulator`.
    pub relays: Vec<RelayView>,
    /// The DKIM signatures that would be added.
    pub dkim: Vec<PlannedSignature>,
    /// Problems that may affect delivery, such as those found by the last verification of the sender's domain; empty if
    /// there are none.
    pub warnings: Vec<Warning>,
    /// The message as it would be sent. Each dry run has another `Message-ID` and unsubscribe link.
    pub mime: Mime,
    /// The recipients, in the order of the request.
    pub recipients: Vec<PlannedRecipient>,
}

/// A MIME message, byte for byte.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = PlannedMime)]
pub struct Mime {
    /// The encoding of `content`: `utf-8`, or `base64` if the message is not UTF-8.
    #[schema(example = "utf-8")]
    pub encoding: &'static str,
    /// The MIME message.
    #[schema(example = "From: Acme Billing <billing@acme.test>\r\nTo: ann@example.test\r\n…")]
    pub content: String,
    /// The size of the MIME message in bytes.
    #[schema(example = 1_204)]
    pub size: usize,
}

/// The delivery plan of a recipient.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct PlannedRecipient {
    /// The recipient's address.
    #[schema(example = "ann@example.test")]
    pub address: String,
    /// The recipient's role: `to`, `cc` or `bcc`.
    #[schema(value_type = crate::domain::message::RecipientKind, example = "to")]
    pub kind: String,
    /// Whether nothing would be sent to the recipient because its address is on the suppression list.
    #[schema(example = false)]
    pub suppressed: bool,
    /// The suppression of the address, even if `ignore_suppression` overrides it. Its note and message are shown only
    /// to keys with the scope `read`.
    pub suppression: Option<SuppressionView>,
    /// The configured TLS mode for the domain's servers; its MTA-STS policy may require more. Null for relays; each
    /// relay has its mode in `relays`.
    #[schema(example = "opportunistic")]
    pub tls: Option<String>,
    /// The recipient's lane.
    pub lane: LaneRef,
    /// Why the first attempt would wait, as text.
    #[schema(example = "It is due, and 3 messages of its lane are before it.")]
    pub summary: String,
    /// Why the first attempt would wait, as fields.
    pub blocker: Blocker,
    /// Seconds until a configured or learned rate limit allows the lane's next message; 0 if none delays it.
    #[schema(example = 0.0)]
    pub throttle_wait: f64,
    /// An estimate of the first attempt's time; null if nothing would be sent to the recipient.
    pub first_attempt: Option<Estimate>,
}

/// Returns the plan of a valid message. `body` is the memory reservation of the request body.
pub(super) async fn respond(
    api: &Api,
    caller: &Caller,
    mut message: NewMessage,
    body: Option<Reservation>,
) -> Result<Response, ApiError> {
    let now = message.created_at;
    let (sender_status, mut warnings) = sender::admit(api, caller.tenant(), message.from.address.domain()).await?;
    let signer = sender_status.signer();
    let route = route(&api.delivery, caller.tenant(), &message);
    let lanes = Lanes::load(api, caller, &message).await?;
    let entries = suppressions(api, caller, &message).await?;
    let recipients = message
        .recipients
        .iter()
        .enumerate()
        .map(|(n, recipient)| lanes.plan(&message, recipient, entries.get(&n), &api.delivery))
        .collect();
    let (unsubscribe, link_warnings) = lanes.unsubscribe(api, caller, &message);
    warnings.extend(link_warnings);
    warnings.extend_from_slice(&message.warnings);
    let relays = api.delivery.relays(&route).to_vec();
    let size = message.size();
    // MIME and JSON are in memory at the same time, in addition to the attachments, which are in `body` or are loaded
    // from the database.
    let need = size.saturating_mul(3).saturating_add(stored_bytes(&message));
    let reservation = match size {
        0..=LARGE_MESSAGE_BYTES => None,
        _ => Some(api.responses.reserve(Some(caller.requester()), need).await?),
    };
    load_stored(api, caller, &mut message).await?;
    let work = move || {
        serde_json::to_vec(&Plan {
            dry_run: true,
            at: now,
            stream: message.stream.clone(),
            route: route.to_string(),
            relays,
            dkim: signer.as_deref().map(PlannedSignature::from_signer).unwrap_or_default(),
            warnings,
            mime: Mime::new(build_mime(&draft(message, unsubscribe), signer.as_deref())),
            recipients,
        })
    };
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let Some(reservation) = reservation else {
        return Ok((kind, work().map_err(|_| ApiError::Internal)?).into_response());
    };
    let json = tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)?;
    drop(body);
    let json = json.map_err(|_| ApiError::Internal)?;
    reservation.shrink(json.len() as u64);
    Ok(response::mark_reserved(
        (kind, Body::from(response::with_reservation(json, Arc::new(reservation)))).into_response(),
    ))
}

/// Returns the route of a message. Its recipients at the simulator have a route of their own.
fn route(delivery: &Delivery, tenant: TenantId, message: &NewMessage) -> RouteName {
    let (stream, sender) = (&message.stream, message.from.address.domain());
    let is_simulated = |recipient: &NewRecipient| is_simulated(tenant, recipient.mailbox.address.domain());
    if message.recipients.iter().all(is_simulated) {
        return RouteName::Simulator;
    }
    delivery.table.for_sender(stream, sender).clone()
}

/// Larger messages are built on a blocking thread, with a memory reservation.
const LARGE_MESSAGE_BYTES: u64 = 64 << 10;

/// Returns the size of the attachments that are not in memory.
fn stored_bytes(message: &NewMessage) -> u64 {
    message.attachments.iter().filter(|file| file.is_stored()).map(|file| file.description.size).sum()
}

/// Loads the attachments that are not in memory.
async fn load_stored(api: &Api, caller: &Caller, message: &mut NewMessage) -> Result<(), ApiError> {
    for file in message.attachments.iter_mut().filter(|file| file.is_stored()) {
        let Attachment { sha256, size, .. } = &file.description;
        file.data = objects::load(&api.db, caller.tenant(), sha256, *size).await?;
    }
    Ok(())
}

/// Builds the MIME message as a worker would. If signing fails, returns the message without signatures; a worker would
/// defer it.
pub(super) fn build_mime(draft: &Draft, signer: Option<&Signer>) -> Vec<u8> {
    let mut mime = mail::build(draft);
    // A message that is passed on is not signed.
    if let Some(signer) = signer.filter(|_| draft.relayed().is_none())
        && let Err(error) = mail::dkim::sign(&mut mime, signer, draft.date)
    {
        tracing::debug!(%error, "cannot sign message; returning it without signatures");
    }
    mime
}

impl Mime {
    fn new(bytes: Vec<u8>) -> Self {
        let size = bytes.len();
        match String::from_utf8(bytes) {
            Ok(content) => Self { encoding: "utf-8", content, size },
            Err(error) => Self { encoding: "base64", content: STANDARD.encode(error.as_bytes()), size },
        }
    }
}

/// Returns the suppressions of recipients, by their index.
async fn suppressions(
    api: &Api,
    caller: &Caller,
    message: &NewMessage,
) -> Result<HashMap<usize, Suppression>, ApiError> {
    let addressed = message.recipients.iter().map(|recipient| Addressed {
        tenant: caller.tenant(),
        address: AddressKey::from(&recipient.mailbox.address),
        stream: &message.stream,
        at: message.scheduled_at.unwrap_or(message.created_at),
    });
    let addressed: Vec<Addressed<'_>> = addressed.collect();
    let mut found = check(&api.db, &addressed).await?;
    if !can_see_other_senders(caller) {
        for (_, entry) in &mut found {
            without_origin(entry);
        }
    }
    Ok(found.into_iter().collect())
}

/// Returns whether the caller may see data about other senders' messages.
fn can_see_other_senders(caller: &Caller) -> bool {
    caller.has_scope(Scope::Read) && caller.sender_domains().is_none()
}

/// Returns the input of the MIME builder, as for a stored message, with unsubscribe headers.
fn draft(mut message: NewMessage, unsubscribe: Vec<Header>) -> Draft {
    message.content.headers.extend(unsubscribe);
    let named = |kind: RecipientKind| {
        let named = message.recipients.iter().filter(|recipient| recipient.kind == kind);
        named.map(|recipient| recipient.mailbox.clone()).collect()
    };
    Draft {
        id: message.id,
        date: message.scheduled_at.map_or(message.created_at, |at| at.max(message.created_at)),
        to: named(RecipientKind::To),
        cc: named(RecipientKind::Cc),
        from: message.from,
        reply_to: message.reply_to,
        subject: message.subject,
        content: message.content,
        attachments: message.attachments.into_iter().map(|file| (file.description, file.data)).collect(),
    }
}

/// The lanes that a message would use, with their queue counts.
struct Lanes {
    tenant: TenantId,
    /// Lanes that exist, each with its number of due recipients if the caller may see it.
    existing: Vec<(Lane, Option<Count>)>,
    /// The settings of a lane that does not exist yet.
    stream_limits: StreamLimits,
    priority: i16,
    retry_policy: Policy,
    /// Whether the stream adds unsubscribe links.
    unsubscribe: bool,
    has_workers: bool,
    /// Since when the restore guard holds, or cannot check the database.
    guarded_since: Option<DateTime<Utc>>,
    can_read: bool,
}

impl Lanes {
    async fn load(api: &Api, caller: &Caller, message: &NewMessage) -> Result<Self, ApiError> {
        let tenant = caller.tenant();
        let can_read = can_see_other_senders(caller);
        let mut domains: Vec<String> =
            message.recipients.iter().map(|recipient| recipient.mailbox.address.domain().to_owned()).collect();
        domains.push("*".into());
        let limit = i64::try_from(domains.len()).unwrap_or(i64::MAX);
        let from = message.from.address.domain();
        let route = |domain: &String| api.delivery.table.lookup(tenant, &message.stream, from, domain).to_string();
        let routes: BTreeSet<String> = domains.iter().map(route).collect();
        let now = message.created_at;
        let _permit = api.slow_queries.acquire(caller.requester()).await?;
        let mut lanes = Vec::new();
        for route in routes {
            let stream = Some(message.stream.clone());
            let filter = Filter { stream, route: Some(route), domains: Some(domains.clone()), ..Filter::default() };
            lanes.extend(lanes::overview::lanes(&api.db, tenant, &filter, limit, now).await?);
        }
        let existing = if can_read {
            let ids: Vec<i64> = lanes.iter().map(|lane| lane.id.0).collect();
            lanes.into_iter().zip(queue_state::due(&api.db, &ids, now).await?.into_iter().map(Some)).collect()
        } else {
            lanes.into_iter().map(|lane| (without_replies_and_reasons(lane), None)).collect()
        };
        let (mut stream_limits, priority) =
            lanes::overview::stream_terms(&api.db, tenant, &message.stream, now).await?;
        if !can_read {
            stream_limits.paused = stream_limits.paused.map(Paused::without_reason);
        }
        let stream = streams::get(&api.db, tenant, &message.stream).await?;
        let configured = &api.delivery.policy;
        Ok(Self {
            tenant,
            existing,
            stream_limits,
            priority,
            unsubscribe: stream.as_ref().is_some_and(|row| row.unsubscribe),
            retry_policy: stream.map_or_else(|| configured.clone(), |row| configured.with(&row.retry)),
            has_workers: queue_state::has_workers(&api.db, api.delivery.lease).await?,
            guarded_since: api.restore_gate.blocked_since(),
            can_read,
        })
    }

    /// Returns the unsubscribe headers, or a warning if the stream adds such headers and they cannot be created.
    fn unsubscribe(&self, api: &Api, caller: &Caller, message: &NewMessage) -> (Vec<Header>, Vec<Warning>) {
        if !self.unsubscribe || unsubscribe::has_link(&message.content.headers) {
            return (Vec::new(), Vec::new());
        }
        let [recipient] = message.recipients.as_slice() else {
            return (Vec::new(), vec![Warning::needs_one_recipient(message)]);
        };
        let Some(links) = &api.links else {
            let message = format!("{}. The message would wait until then.", StoredMessageError::NoUnsubscribeLinks);
            return (Vec::new(), vec![Warning { code: "not_configured", message }]);
        };
        let ticket = Ticket {
            tenant: caller.tenant(),
            message: message.id,
            recipient: recipient.id,
            stream: message.stream.clone(),
            address: recipient.mailbox.address.clone(),
        };
        (links.headers(&ticket).into(), Vec::new())
    }

    /// Returns the lane of a domain: its separate lane, or else the relay's lane for all domains.
    fn find(&self, domain: &str, route: &RouteName) -> Option<&(Lane, Option<Count>)> {
        let route_name = route.to_string();
        let named = |name: &str| self.existing.iter().find(|(lane, _)| lane.domain == name && lane.route == route_name);
        named(domain).or_else(|| if route.is_mx() { None } else { named("*") })
    }

    fn plan(
        &self,
        message: &NewMessage,
        recipient: &NewRecipient,
        entry: Option<&Suppression>,
        delivery: &Delivery,
    ) -> PlannedRecipient {
        let suppressed = entry.is_some() && !message.ignore_suppression;
        let now = message.created_at;
        let domain = recipient.mailbox.address.domain();
        let route = delivery.table.lookup(self.tenant, &message.stream, message.from.address.domain(), domain);
        let (lane, ahead) = match self.find(domain, route) {
            Some((lane, ahead)) => (lane.clone(), *ahead),
            None => (self.new_lane(&message.stream, route, domain), self.can_read.then(Count::default)),
        };
        let due_at = message.scheduled_at.unwrap_or(now);
        let opens = lane.opens_at().filter(|_| lane.unreachable.is_none());
        let reference = LaneRef::new(&lane);
        let queue_entry = QueueEntry {
            due_at: Some(due_at),
            gives_up_at: self.retry_policy.deadline(due_at, message.expires_at),
            lease: None,
            crashes: 0,
            held: None,
            is_rescheduled: false,
            unprepared: None,
            ahead,
            throughput: None,
            has_workers: self.has_workers,
            guarded_since: self.guarded_since,
            lane,
        };
        let Explanation { summary, blocker, estimate, .. } =
            explain(&as_accepted(message, entry.filter(|_| suppressed)), Some(&queue_entry), now);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of days")]
        let wait = opens.map_or(0.0, |at| (at - now).num_milliseconds().max(0) as f64 / 1_000.0);
        PlannedRecipient {
            address: recipient.mailbox.address.to_string(),
            kind: recipient.kind.as_str().to_owned(),
            suppressed,
            suppression: entry.cloned().map(SuppressionView::from),
            tls: route.is_mx().then(|| delivery.mx_tls(domain).to_owned()),
            lane: reference,
            summary,
            blocker,
            throttle_wait: wait,
            first_attempt: estimate,
        }
    }

    fn new_lane(&self, stream: &str, route: &RouteName, domain: &str) -> Lane {
        Lane {
            id: LaneId::NONE,
            stream: stream.to_owned(),
            route: route.to_string(),
            domain: if route.is_mx() { domain.to_owned() } else { "*".into() },
            priority: self.priority,
            state: if self.stream_limits.paused.is_some() { LaneState::Paused } else { LaneState::Open },
            open_at: None,
            paused: None,
            limits: LaneLimits::default(),
            learned: None,
            unreachable: None,
            in_use: 0,
            is_due: false,
            stream_limits: self.stream_limits.clone(),
        }
    }
}

/// Returns a recipient in the state right after acceptance.
fn as_accepted(message: &NewMessage, suppression: Option<&Suppression>) -> Recipient {
    let reply = suppression.map(|entry| entry.outcome().reply.text);
    Recipient {
        message: message.id,
        status: if reply.is_some() { Status::Suppressed } else { Status::Queued },
        attempts: 0,
        created_at: message.created_at,
        last_attempt_at: None,
        reported_at: None,
        complained_at: None,
        finished_at: reply.is_some().then_some(message.created_at),
        reply: SmtpReply::from_row(None, None, reply),
        mx: None,
        tls: None,
        on_uncertain: message.on_uncertain,
        expires_at: message.expires_at,
        suppression: suppression.cloned(),
        bounce: None,
    }
}
