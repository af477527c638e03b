//! Receives messages for inbound routes.
//!
//! ```text
//! RCPT ─▶ routes of the domain (cached) ─▶ DATA ─▶ parsed (mail) ─▶ answered message ─▶ stored with an event, committed
//!                                                                                          └─▶ passed on (accept::background::relays)
//! ```
//!
//! Guarantees:
//! - A recipient without a route is refused, in the conversation. Only messages to addresses with a route are passed on, and only to the
//!   server that the route names.
//! - A message that was accepted is committed, once for each route that matches one of its recipients, with its event. If the
//!   process dies before it has replied, the sending server sends the message again, and it is stored twice.
//! - A message whose route passes it on has a row in `relays`, in the same transaction.
//! - A tenant sees only the recipients that its own route matched.

mod authentication;
mod greylist;
mod routes;

use std::net::IpAddr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use tokio::sync::{Notify, Semaphore};
use uuid::Uuid;

use crate::clock::SharedClock;
use crate::db::changes::Caches;
use crate::db::messages::message_ids;
use crate::db::receiving::messages::{self, NewReceived, ReceivedContent};
use crate::db::{Db, DbError};
use crate::domain::address::return_path::ReturnPaths;
use crate::domain::address::srs::{Srs, SrsFault};
use crate::domain::id::{MessageId, ReceivedId, TenantId};
use crate::domain::network::Allowed;
use crate::domain::routing::relay::Relay;
use crate::mail::received::{self, ParsedMessage};
use crate::metrics::METRICS;
use crate::metrics::labels::InboundKind;

pub use authentication::{ArcVerdict, Authentication, Authenticator, DmarcVerdict, DomainVerdict, SignatureVerdict};
use authentication::{Client, MAX_SIGNATURES};
pub use greylist::Greylist;
use routes::RouteCache;

/// Maximum number of messages parsed concurrently: parsing a large message takes a while, and sending has priority.
const PARSE_CONCURRENCY: usize = 2;
/// Maximum number of servers that a message may have passed. More are a loop (RFC 5321 §6.3).
const MAX_HOPS: usize = 50;
/// Maximum number of times that a message to be passed on may have passed this server. A mailing list brings a message back once; more
/// are a loop, which is found before it has filled the queue with copies.
const MAX_OWN_HOPS: usize = 3;
/// Maximum number of `References` by which the answered message is looked up, from the last one.
const MAX_REFERENCES: usize = 10;

/// Receives messages for inbound routes.
#[derive(Debug)]
pub struct Receiver {
    db: Db,
    clock: SharedClock,
    paths: Option<ReturnPaths>,
    routes: Arc<RouteCache>,
    parse_permits: Arc<Semaphore>,
    /// Determines verdicts; `None` if that is switched off.
    authenticator: Option<Authenticator>,
    /// Whether messages are refused that fail DMARC and whose domain's policy is to reject them.
    rejects_dmarc: bool,
    /// The name of this host, by which its own `Received` fields are found.
    hostname: String,
    /// Restores rewritten senders, to which bounces come.
    srs: Option<Srs>,
    greylist: Option<Greylist>,
    /// The addresses, in addition to public ones, at which the servers of routes may be.
    allowed_relays: Allowed,
    /// Notifies the task that passes messages on.
    relay_wake: Arc<Notify>,
}

/// Whether a recipient is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// A route matches.
    Accepted,
    /// A route matches, and its tenant is suspended.
    Suspended,
    /// No route matches.
    Unknown,
    /// It is a rewritten sender that has expired.
    Expired,
    /// It is a rewritten sender, to which only bounces may be sent.
    NoBounce,
}

/// A message and its envelope.
#[derive(Debug)]
pub struct IncomingMessage {
    /// The reverse path; empty for the null sender.
    pub from: String,
    /// The recipients, each of which was accepted.
    pub to: Vec<String>,
    /// Name of the client in EHLO or HELO.
    pub helo: String,
    /// Address of the client.
    pub remote_address: IpAddr,
    /// The message as received.
    pub data: Vec<u8>,
}

/// Why a message was not stored.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// It has passed too many servers.
    #[error("the message has passed {0} servers: this is a loop")]
    Loop(usize),
    /// The routes of a recipient were deleted, or their tenants suspended, since the recipient was accepted.
    #[error("a recipient has no route any more")]
    NoRoute,
    /// Its client, sender and recipient have not been seen together long enough.
    #[error("the message is greylisted")]
    Greylisted,
    /// It fails DMARC, and the policy of this domain is to reject such messages.
    #[error("the message fails DMARC, and the policy of {0} is to reject it")]
    Dmarc(String),
    /// It has too many signatures to be checked, and messages that fail DMARC are refused.
    #[error("the message has too many signatures")]
    Signatures,
    /// The parser failed.
    #[error("the message cannot be parsed")]
    Parser,
    /// The database failed; nothing was stored.
    #[error(transparent)]
    Database(#[from] DbError),
}

/// A route that matches recipients of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MatchedRoute {
    tenant: TenantId,
    route: Uuid,
    is_relay: bool,
    is_suspended: bool,
}

impl MatchedRoute {
    /// Returns what stands for a route for bounces to rewritten senders. They belong to the default tenant: the address does not say
    /// whose message was passed on.
    fn bounce() -> Self {
        Self { tenant: TenantId::DEFAULT, route: Uuid::nil(), is_relay: false, is_suspended: false }
    }

    fn is_bounce(&self) -> bool {
        self.route.is_nil()
    }
}

impl Receiver {
    /// Creates a receiver. With `paths`, a recipient's address may contain the token of the message that is answered.
    pub fn new(db: Db, clock: SharedClock, caches: Arc<Caches>, paths: Option<ReturnPaths>) -> Self {
        let parse_permits = Arc::new(Semaphore::new(PARSE_CONCURRENCY));
        let routes = RouteCache::new(db.clone(), caches);
        Self {
            routes,
            db,
            clock,
            paths,
            parse_permits,
            authenticator: None,
            rejects_dmarc: false,
            hostname: String::new(),
            srs: None,
            greylist: None,
            allowed_relays: Allowed::default(),
            relay_wake: Arc::default(),
        }
    }

    /// Sets the name of this host, and the addresses that the servers of routes may have in addition to public ones.
    #[must_use]
    pub fn with_relays(self, hostname: String, allowed_relays: Allowed) -> Self {
        Self { hostname, allowed_relays, ..self }
    }

    /// Receives bounces to rewritten senders, which are passed on to the senders.
    #[must_use]
    pub fn with_srs(self, srs: Option<Srs>) -> Self {
        Self { srs, ..self }
    }

    /// Defers messages from unknown clients, senders and recipients.
    #[must_use]
    pub fn with_greylist(self, greylist: Option<Greylist>) -> Self {
        Self { greylist, ..self }
    }

    /// Returns the signal that there are messages to pass on.
    pub fn relay_wake(&self) -> Arc<Notify> {
        self.relay_wake.clone()
    }

    /// Checks whether messages may be passed on to a server. A host name is resolved and checked at every connection; here, only
    /// addresses are checked.
    pub fn check_relay(&self, relay: &Relay) -> Result<(), String> {
        let is_allowed = match relay.host.parse::<IpAddr>() {
            Ok(ip) => self.allowed_relays.admits_server(&relay.host, ip),
            Err(_) => true,
        };
        let why = || {
            let setting = "only `inbound.allow_private_relays` can permit that";
            format!("{} is not a public address of another machine: {setting}", relay.host)
        };
        is_allowed.then_some(()).ok_or_else(why)
    }

    /// Authenticates messages. With `rejects_dmarc`, a message that fails DMARC is refused if the policy of its domain is to
    /// reject it.
    #[must_use]
    pub fn with_authenticator(self, authenticator: Authenticator, rejects_dmarc: bool) -> Self {
        Self { authenticator: Some(authenticator), rejects_dmarc, ..self }
    }

    /// Returns whether a recipient is accepted in a message with this reverse path. If several tenants have routes for it, one that is not
    /// suspended suffices. A rewritten sender is accepted in bounces only: everybody who got a message knows it, and could otherwise send
    /// anything to the sender through this server.
    pub async fn admits(&self, from: &str, to: &str) -> Result<Admission, DbError> {
        if let Some(srs) = self.srs.as_ref().filter(|srs| srs.has_form(to)) {
            return Ok(match srs.restore(to, self.clock.now()) {
                Ok(_) if from.is_empty() => Admission::Accepted,
                Ok(_) => Admission::NoBounce,
                Err(SrsFault::Expired) => Admission::Expired,
                Err(SrsFault::Missing | SrsFault::Forged) => Admission::Unknown,
            });
        }
        let matched = self.routes.matches(to).await?;
        Ok(match matched.as_slice() {
            [] => Admission::Unknown,
            all if all.iter().all(|one| one.is_suspended) => Admission::Suspended,
            _ => Admission::Accepted,
        })
    }

    /// Stores a message for each of the routes that match its recipients. Returns their number. Stores nothing if a recipient has no
    /// route any more: the reply to a message applies to all of its recipients, and none may be lost.
    pub async fn receive(&self, message: IncomingMessage) -> Result<usize, ReceiveError> {
        let routes = self.matched(&message.to).await?;
        if let Some(greylist) = &self.greylist
            && !greylist.admits(&message, self.clock.now()).await?
        {
            return Err(ReceiveError::Greylisted);
        }
        let IncomingMessage { from, helo, remote_address, data, .. } = message;
        let (parsed, data) = self.parse(data).await?;
        if parsed.hops > MAX_HOPS {
            return Err(ReceiveError::Loop(parsed.hops));
        }
        if routes.iter().any(|(route, _)| route.is_relay || route.is_bounce()) {
            let own = own_hops(&parsed, &self.hostname);
            if own > MAX_OWN_HOPS {
                return Err(ReceiveError::Loop(own));
            }
        }
        if self.rejects_dmarc && parsed.signatures > MAX_SIGNATURES {
            return Err(ReceiveError::Signatures);
        }
        let client = Client { address: remote_address.to_canonical(), helo: helo.clone(), from: from.clone() };
        let (authentication, data) = match &self.authenticator {
            Some(authenticator) => {
                let (verdicts, data) = authenticator.check(client, data, parsed.signatures).await;
                (Some(verdicts), data)
            }
            None => (None, data),
        };
        if let Some(verdicts) = authentication.as_ref().filter(|verdicts| self.rejects_dmarc && verdicts.is_rejected())
        {
            return Err(ReceiveError::Dmarc(verdicts.dmarc.domain.clone().unwrap_or_default()));
        }
        let now = self.clock.now();
        let mut copies = Vec::new();
        for (matched, envelope_to) in routes {
            let answers = self.answered(matched.tenant, &envelope_to, &parsed).await?;
            let id = ReceivedId::new(now);
            let relay_to = self.relay_to(&matched, &envelope_to, now);
            let MatchedRoute { tenant, route, .. } = matched;
            copies.push(NewReceived { tenant, id, route, envelope_to, answers, relay_to });
        }
        let remote_address = remote_address.to_canonical().to_string();
        let envelope = (from.as_str(), helo.as_str(), remote_address.as_str());
        let content = ReceivedContent {
            authentication: authentication.as_ref().map(|verdicts| json!(verdicts)),
            ..content(&parsed, envelope, &data)
        };
        messages::insert(&self.db, &content, &copies, now).await?;
        METRICS.inbound_messages.get((InboundKind::Received,)).increment(copies.len() as u64);
        if copies.iter().any(|copy| !copy.relay_to.is_empty()) {
            self.relay_wake.notify_one();
        }
        for copy in &copies {
            tracing::info!(
                event = "message_received",
                received = %copy.id,
                tenant = %copy.tenant,
                answers = copy.answers.map(tracing::field::display),
                auto_reply = parsed.auto_reply,
                dmarc = authentication.as_ref().map(|verdicts| verdicts.dmarc.result.as_str()),
                size = data.len(),
                "stored a message for an inbound route"
            );
        }
        Ok(copies.len())
    }

    /// Returns the routes that match the recipients, each with its recipients. Fails if a recipient has no route any more: a
    /// reply to the final dot is for all recipients, and the sending server must learn of this one.
    async fn matched(&self, to: &[String]) -> Result<Vec<(MatchedRoute, Vec<String>)>, ReceiveError> {
        let mut routes: Vec<(MatchedRoute, Vec<String>)> = Vec::new();
        for to in to {
            let is_bounce = self.srs.as_ref().is_some_and(|srs| srs.has_form(to));
            let mut matched = if is_bounce { vec![MatchedRoute::bounce()] } else { self.routes.matches(to).await? };
            matched.retain(|one| !one.is_suspended);
            if matched.is_empty() {
                return Err(ReceiveError::NoRoute);
            }
            for one in matched {
                match routes.iter_mut().find(|(route, _)| *route == one) {
                    Some((_, recipients)) => recipients.push(to.clone()),
                    None => routes.push((one, vec![to.clone()])),
                }
            }
        }
        Ok(routes)
    }

    /// Returns the recipients to whom a message is passed on: those of a route that does so, or the senders for which rewritten ones
    /// stand.
    fn relay_to(&self, matched: &MatchedRoute, envelope_to: &[String], now: DateTime<Utc>) -> Vec<String> {
        if matched.is_relay {
            return envelope_to.to_vec();
        }
        let Some(srs) = self.srs.as_ref().filter(|_| matched.is_bounce()) else { return Vec::new() };
        // They were verified before the message was transferred.
        envelope_to.iter().filter_map(|to| srs.restore(to, now).ok()).map(|sender| sender.to_string()).collect()
    }

    /// Parses a message off the async threads. A panic affects only this message.
    async fn parse(&self, data: Vec<u8>) -> Result<(ParsedMessage, Vec<u8>), ReceiveError> {
        let size = data.len();
        // The blocking task keeps the permit, even if the caller is canceled. The semaphore is never closed.
        let permit = self.parse_permits.clone().acquire_owned().await.ok();
        let read = move || {
            let parsed = received::read(&data);
            drop(permit);
            (parsed, data)
        };
        tokio::task::spawn_blocking(read).await.map_err(|_| {
            tracing::error!(event = "received_parser_failed", size, "failed to parse a received message; refused it");
            ReceiveError::Parser
        })
    }

    /// Returns the message of this tenant that a message answers: the one in its recipient's address, else the first one that
    /// `In-Reply-To` names, else the latest one of `References`.
    async fn answered(
        &self,
        tenant: TenantId,
        to: &[String],
        parsed: &ParsedMessage,
    ) -> Result<Option<MessageId>, DbError> {
        if let Some(paths) = &self.paths {
            let tokens = to.iter().filter_map(|to| paths.find(to, self.clock.now()).ok());
            for token in tokens {
                if messages::has_message(&self.db, tenant, token.message).await? {
                    return Ok(Some(token.message));
                }
            }
        }
        let references = parsed.references.iter().rev().filter(|id| !parsed.in_reply_to.contains(id));
        let ids = parsed.in_reply_to.iter().take(MAX_REFERENCES).chain(references.take(MAX_REFERENCES));
        for id in ids {
            // A Message-ID that several messages have identifies none of them.
            if let [only] = message_ids::find(&self.db, tenant, id).await?.as_slice() {
                return Ok(Some(MessageId(*only)));
            }
        }
        Ok(None)
    }
}

/// Returns how many times a message has passed this server.
fn own_hops(parsed: &ParsedMessage, hostname: &str) -> usize {
    let own = format!("by {hostname} (Postrider)");
    let is_own = |(name, value): &&(String, String)| name.eq_ignore_ascii_case("received") && value.contains(&own);
    parsed.headers.iter().filter(is_own).count()
}

fn content<'a>(
    parsed: &'a ParsedMessage,
    (envelope_from, helo, remote_address): (&'a str, &'a str, &'a str),
    raw: &'a [u8],
) -> ReceivedContent<'a> {
    let headers = parsed.headers.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
    ReceivedContent {
        envelope_from,
        helo,
        remote_address,
        from_address: parsed.from_address.as_deref(),
        from_name: parsed.from_name.as_deref(),
        subject: &parsed.subject,
        internet_message_id: parsed.message_id.as_deref(),
        in_reply_to: &parsed.in_reply_to,
        references: &parsed.references,
        auto_reply: parsed.auto_reply,
        headers,
        text: parsed.text.as_deref(),
        html: parsed.html.as_deref(),
        reply_text: parsed.reply_text.as_deref(),
        attachments: json!(parsed.attachments),
        authentication: None,
        raw,
    }
}
