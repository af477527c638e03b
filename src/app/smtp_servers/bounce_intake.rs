//! Builds what receives messages from the configuration: the return paths, the SMTP server, [`Feedback`], which processes bounces
//! and complaints, and [`Receiver`], which stores messages for inbound routes.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::smtp_listener::{self, SmtpListener};
use crate::app::hint::WithHint as _;
use crate::app::hostname;
use crate::clock::SharedClock;
use crate::config::{Config, DmarcAction, Inbound};
use crate::db::Db;
use crate::db::changes::Caches;
use crate::dns;
use crate::domain::address::return_path::{ReturnPaths, TokenFault};
use crate::domain::address::srs::Srs;
use crate::domain::outcome::EnhancedCode;
use crate::feedback::receiving::{Admission, Authenticator, Greylist, IncomingMessage, ReceiveError, Receiver};
use crate::feedback::{Feedback, Origin};
use crate::mail;
use crate::metrics::METRICS;
use crate::metrics::labels::InboundKind;
use crate::smtp::inbound::{Certificate, Handler, MessageMemory, ReceivedMessage, Settings, SmtpRefusal};
use crate::telemetry::RateLimitedLog;
use crate::worker::Returns;

/// Returns the return paths, if a domain is configured for them.
pub(in crate::app) fn paths(config: &Config) -> anyhow::Result<Option<ReturnPaths>> {
    let Some(domain) = config.return_path.domain_ascii() else {
        if config.inbound.listen.is_some() {
            return Err(anyhow!("inbound.listen needs return_path.domain, the domain to which bounces come"))
                .with_hint("set return_path.domain (POSTRIDER_RETURN_PATH__DOMAIN)");
        }
        return Ok(None);
    };
    let keyring = config
        .keyring()
        .context("return_path.domain needs secret_key (POSTRIDER_SECRET_KEY), which signs return paths")
        .with_hint("set it to the output of `openssl rand -base64 33`")?;
    Ok(Some(ReturnPaths::new(keyring, domain, config.return_path.lifetime)))
}

/// Returns the workers' settings for return paths.
pub(in crate::app) fn worker_returns(config: &Config) -> anyhow::Result<Option<Returns>> {
    let success = config.delivery.dsn_success;
    Ok(paths(config)?.map(|paths| Returns { paths, verp: config.return_path.verp, success }))
}

/// Creates the processor of bounces and complaints.
pub(in crate::app) fn feedback(config: &Config, db: Db, clock: SharedClock) -> anyhow::Result<Arc<Feedback>> {
    // Invalid addresses were refused when the configuration was read.
    let complaints = config.inbound.feedback.as_ref().and_then(|address| address.parse().ok());
    Ok(Arc::new(Feedback::new(db, clock, paths(config)?, complaints)))
}

/// Returns what rewrites the senders of messages that are passed on, if a domain is configured for them.
pub(in crate::app) fn srs(config: &Config) -> anyhow::Result<Option<Srs>> {
    let Some(domain) = config.inbound.srs_domain_ascii() else { return Ok(None) };
    let keyring = config
        .keyring()
        .context("inbound.srs_domain needs secret_key (POSTRIDER_SECRET_KEY), which signs rewritten senders")
        .with_hint("set it to the output of `openssl rand -base64 33`")?;
    Ok(Some(Srs::new(keyring, domain)))
}

/// Creates what stores messages for inbound routes.
pub(in crate::app) fn receiver(
    config: &Config,
    db: Db,
    clock: SharedClock,
    caches: Arc<Caches>,
) -> anyhow::Result<Arc<Receiver>> {
    let allowed_relays = config.inbound.allowed_relays();
    let keyring = config.keyring().filter(|_| !config.inbound.greylist.is_zero());
    let greylist = keyring.map(|keyring| Greylist::new(db.clone(), keyring, config.inbound.greylist));
    let receiver = Receiver::new(db, clock, caches, paths(config)?)
        .with_relays(hostname(config), allowed_relays)
        .with_srs(srs(config)?)
        .with_greylist(greylist);
    if !config.inbound.authenticate || config.inbound.listen.is_none() {
        return Ok(Arc::new(receiver));
    }
    let dns = dns::resolver(config.dns).context("cannot set up the DNS resolver")?;
    let authenticator = Authenticator::new(dns, hostname(config));
    Ok(Arc::new(receiver.with_authenticator(authenticator, config.inbound.dmarc == DmarcAction::Reject)))
}

/// Starts the SMTP server for bounces, complaints and inbound routes, if `inbound.listen` is configured.
pub(in crate::app) async fn start_server(
    config: &Config,
    feedback: Arc<Feedback>,
    receiver: Arc<Receiver>,
) -> anyhow::Result<Option<SmtpListener>> {
    let Some(listen) = config.inbound.listen else { return Ok(None) };
    let handler = Arc::new(InboundHandler::new(config, feedback, receiver));
    Ok(Some(SmtpListener::start(listen, "inbound.listen", settings(config)?, handler).await?))
}

/// Maximum number of recipients of one message. A bounce has one, the return path that identifies its message; other messages may
/// have several.
const MAX_RECIPIENTS: usize = 10;
/// Maximum number of refused commands in one session, which limits clients that guess return paths.
const MAX_ERRORS: u32 = 10;

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let inbound = &config.inbound;
    Ok(Settings {
        hostname: hostname(config),
        max_message: usize::try_from(inbound.max_message()).unwrap_or(usize::MAX),
        max_recipients: MAX_RECIPIENTS,
        max_connections: inbound.connections as usize,
        max_per_peer: inbound.connections_per_peer as usize,
        messages_per_minute: Some(inbound.messages_per_minute),
        memory: Some(MessageMemory::new(message_memory(config))),
        certificate: certificate(inbound)?,
        max_errors: MAX_ERRORS,
        grace: crate::app::shutdown::REQUEST_GRACE,
        ..Settings::default()
    })
}

/// Returns the bytes of memory that messages in transfer share: anybody can send messages for inbound routes. A growing buffer may
/// be twice as large as its content, and one message of the maximum size must always fit.
fn message_memory(config: &Config) -> u64 {
    let largest = config.inbound.max_received().max(PARSED_BYTES as u64);
    (u64::from(config.accept.body_memory_mib) << 20).max(largest.saturating_mul(2))
}

fn certificate(inbound: &Inbound) -> anyhow::Result<Option<Certificate>> {
    smtp_listener::certificate("inbound", inbound.cert_file.as_deref(), inbound.key_file.as_deref())
}

/// Maximum number of bytes of a bounce or complaint that are parsed. Reports come first and the returned message last; the server
/// reads the rest and drops it, so that a bounce with a large returned message is not refused.
const PARSED_BYTES: usize = 1 << 20;

/// Accepts messages to return paths, to the complaint address, to postmaster and to inbound routes.
struct InboundHandler {
    feedback: Arc<Feedback>,
    receiver: Arc<Receiver>,
    /// Maximum bytes of a message for an inbound route.
    max_received: usize,
    forged: RateLimitedLog,
    /// Domains whose messages to postmaster are accepted: the domain of return paths, and this host's name.
    domains: Vec<String>,
    postmaster: Mutex<Minute>,
    /// Whether the log has the content of messages to postmaster.
    logs_content: bool,
}

/// Maximum number of messages to postmaster per minute; each is logged.
const POSTMASTER_A_MINUTE: u32 = 60;
/// Maximum number of characters of a message to postmaster that are logged.
const POSTMASTER_TEXT: usize = 1_000;

/// Number of messages in the minute that began at `began`.
#[derive(Debug, Default)]
struct Minute {
    began: Option<Instant>,
    count: u32,
}

impl Minute {
    fn admits_one_more(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_mins(1)) {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= POSTMASTER_A_MINUTE
    }
}

impl InboundHandler {
    fn new(config: &Config, feedback: Arc<Feedback>, receiver: Arc<Receiver>) -> Self {
        Self {
            feedback,
            receiver,
            max_received: usize::try_from(config.inbound.max_received()).unwrap_or(usize::MAX),
            forged: RateLimitedLog::default(),
            domains: config.return_path.domain_ascii().into_iter().chain([hostname(config)]).collect(),
            postmaster: Mutex::default(),
            logs_content: config.log.personal_data,
        }
    }

    /// Returns whether messages to an address are reports, or for postmaster. They take precedence over inbound routes.
    fn is_for_feedback(&self, to: &str) -> bool {
        self.is_postmaster(to) || self.feedback.admits(to).is_ok()
    }

    /// Returns whether `to` is postmaster, with a domain of this server or without one (RFC 5321 §4.5.1).
    fn is_postmaster(&self, to: &str) -> bool {
        let (local, domain) = to.rsplit_once('@').map_or((to, None), |(local, domain)| (local, Some(domain)));
        let is_own = |domain: &str| self.domains.iter().any(|own| own.eq_ignore_ascii_case(domain));
        local.eq_ignore_ascii_case("postmaster") && domain.is_none_or(is_own)
    }

    /// Logs a message to postmaster: there is no mailbox for it.
    fn log_for_postmaster(&self, from: &str, peer: SocketAddr, data: &[u8]) {
        let summary = self.logs_content.then(|| mail::report::summary(data, POSTMASTER_TEXT));
        let summary = summary.as_ref();
        tracing::warn!(
            event = "postmaster_mail",
            sender = from,
            %peer,
            size = data.len(),
            header_from = summary.map(|summary| summary.from.as_str()),
            subject = summary.map(|summary| summary.subject.as_str()),
            text = summary.map(|summary| summary.text.as_str()),
            "received a message for postmaster; it is not stored, and logged only with log.personal_data"
        );
    }
}

impl InboundHandler {
    /// Logs that a return path was refused.
    fn log_refused(&self, to: &str, fault: TokenFault) {
        METRICS.inbound_messages.get((InboundKind::Refused,)).increment(1);
        tracing::debug!(to, %fault, "refused a recipient that has no route and is not a return path");
        if fault == TokenFault::Forged
            && let Some(count) = self.forged.note(Instant::now())
        {
            tracing::warn!(
                event = "forged_return_path",
                to,
                count,
                "refused return paths with an invalid signature; if secret_key was changed, add the old one to \
                 previous_secret_keys"
            );
        }
    }

    /// Returns whether a recipient that is not a return path has an inbound route.
    async fn admit_route(&self, from: &str, to: &str) -> Result<(), SmtpRefusal> {
        match self.receiver.admits(from, to).await {
            Ok(Admission::Accepted) => Ok(()),
            Ok(Admission::Suspended) => {
                let enhanced = EnhancedCode { class: 4, subject: 2, detail: 1 };
                Err(SmtpRefusal::new(450, enhanced, "This mailbox is suspended, try again later"))
            }
            Ok(Admission::Expired) => Err(SmtpRefusal::permanent(1, 1, "This return path has expired")),
            Ok(Admission::NoBounce) => {
                Err(SmtpRefusal::permanent(7, 1, "Only bounces are accepted for this address: use MAIL FROM:<>"))
            }
            Ok(Admission::Unknown) => {
                self.log_refused(to, TokenFault::Missing);
                Err(SmtpRefusal::permanent(1, 1, "No such mailbox"))
            }
            Err(error) => {
                tracing::warn!(
                    event = "recipient_not_looked_up",
                    %error,
                    "failed to look up a recipient; the sending server will try again"
                );
                Err(database_unavailable())
            }
        }
    }

    /// Processes a bounce, a complaint or a message for postmaster.
    async fn process_report(&self, from: &str, to: &str, peer: SocketAddr, data: &[u8]) -> Result<String, SmtpRefusal> {
        let is_for_postmaster = self.is_postmaster(to);
        if is_for_postmaster {
            self.log_for_postmaster(from, peer, data);
        }
        // The final delivery server adds this header (RFC 5321 §4.4). The parser uses the first one, so that the
        // message cannot override it.
        let data = [format!("Return-Path: <{from}>\r\n").as_bytes(), data].concat();
        let to = [to.to_owned()];
        match self.feedback.process(data, Origin::Smtp { to: &to, peer }, false).await {
            Ok(outcome) if outcome.is_early() => {
                Err(SmtpRefusal::temporary(3, 2, "Try again later: the message is still being sent"))
            }
            Ok(_) if is_for_postmaster => Ok("Accepted for postmaster".into()),
            Ok(outcome) => {
                Ok(format!("Accepted as {}, {} recipients changed", outcome.report.kind.as_str(), outcome.applied()))
            }
            // The sending server keeps the message until it is committed here.
            Err(error) => {
                tracing::warn!(
                    event = "report_not_applied",
                    %error,
                    "failed to apply a bounce or complaint; the sending server will try again"
                );
                Err(database_unavailable())
            }
        }
    }

    /// Stores a message for inbound routes.
    async fn receive(&self, message: IncomingMessage) -> Result<String, SmtpRefusal> {
        if message.data.len() > self.max_received {
            return Err(SmtpRefusal::new(
                552,
                EnhancedCode { class: 5, subject: 3, detail: 4 },
                format!("The message is too big; at most {} bytes are accepted", self.max_received),
            ));
        }
        match self.receiver.receive(message).await {
            Ok(_) => Ok("Accepted".into()),
            Err(error @ ReceiveError::Loop(_)) => {
                tracing::warn!(event = "received_loop", %error, "refused a message; check who forwards to this address");
                let enhanced = EnhancedCode { class: 5, subject: 4, detail: 6 };
                Err(SmtpRefusal::new(554, enhanced, "Too many Received fields: this is a loop"))
            }
            Err(error @ ReceiveError::Dmarc(_)) => {
                tracing::info!(event = "received_dmarc_rejected", %error, "refused a message (inbound.dmarc)");
                Err(SmtpRefusal::permanent(7, 1, "The message fails DMARC, and its domain asks to reject it"))
            }
            Err(error @ ReceiveError::Signatures) => {
                tracing::info!(event = "received_dmarc_rejected", %error, "refused a message (inbound.dmarc)");
                Err(SmtpRefusal::permanent(7, 1, "The message has too many signatures or header fields to be checked"))
            }
            Err(ReceiveError::Greylisted) => {
                tracing::debug!("deferred a message (inbound.greylist)");
                Err(SmtpRefusal::temporary(7, 1, "Greylisted, try again later"))
            }
            Err(ReceiveError::Parser) => Err(SmtpRefusal::new(
                554,
                EnhancedCode { class: 5, subject: 6, detail: 0 },
                "The message cannot be parsed",
            )),
            Err(ReceiveError::NoRoute) => {
                Err(SmtpRefusal::temporary(2, 1, "The recipients have changed, try again later"))
            }
            Err(error @ ReceiveError::Database(_)) => {
                tracing::warn!(
                    event = "received_not_stored",
                    %error,
                    "failed to store a received message; the sending server will try again"
                );
                Err(database_unavailable())
            }
        }
    }
}

fn database_unavailable() -> SmtpRefusal {
    SmtpRefusal::temporary(3, 0, "Try again later: the database is unavailable")
}

impl Handler for InboundHandler {
    type Identity = ();

    async fn rcpt(&self, _identity: Option<&()>, from: &str, to: &str) -> Result<(), SmtpRefusal> {
        if self.is_postmaster(to) {
            let is_admitted = self.postmaster.lock().admits_one_more(Instant::now());
            let refusal = || SmtpRefusal::temporary(7, 1, "Too many messages for postmaster, try again later");
            return if is_admitted { Ok(()) } else { Err(refusal()) };
        }
        match self.feedback.admits(to) {
            Ok(()) => Ok(()),
            Err(TokenFault::Missing) => self.admit_route(from, to).await,
            Err(fault @ (TokenFault::Expired | TokenFault::Forged)) => {
                self.log_refused(to, fault);
                let text =
                    if fault == TokenFault::Expired { "This return path has expired" } else { "No such mailbox" };
                Err(SmtpRefusal::permanent(1, 1, text))
            }
        }
    }

    fn max_message(&self, to: &str) -> usize {
        if self.is_for_feedback(to) { usize::MAX } else { self.max_received }
    }

    fn max_stored(&self, to: &[String]) -> usize {
        let is_for_route = to.iter().any(|to| !self.is_for_feedback(to));
        // One more byte shows that the message is too big.
        if is_for_route { self.max_received.saturating_add(1).max(PARSED_BYTES) } else { PARSED_BYTES }
    }

    async fn message(&self, _identity: Option<&()>, mail: ReceivedMessage) -> Result<String, SmtpRefusal> {
        let ReceivedMessage { helo, from, to, peer, data, .. } = mail;
        let (reports, to): (Vec<String>, Vec<String>) = to.into_iter().partition(|to| self.is_for_feedback(to));
        let mut reply = String::new();
        // Reports first: if the sending server sends the message again, they change nothing the second time.
        for report in &reports {
            reply = self.process_report(&from, report, peer, data.get(..PARSED_BYTES).unwrap_or(&data)).await?;
        }
        if to.is_empty() {
            return Ok(reply);
        }
        self.receive(IncomingMessage { from, to, helo, remote_address: peer.ip(), data }).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(config: &Config) -> String {
        format!("{:#}", paths(config).expect_err("a refusal"))
    }

    #[test]
    fn return_paths_need_a_secret_and_inbound_needs_return_paths() {
        let mut config = Config::default();
        assert!(paths(&config).unwrap().is_none());
        config.inbound.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(refused(&config).contains("return_path.domain"));
        config.return_path.domain = Some("BÜCHER.test".into());
        assert!(refused(&config).contains("secret_key") && !refused(&config).contains('\n'));
        config.secret_key = Some("x".repeat(32).into());
        assert_eq!(paths(&config).unwrap().unwrap().domain(), "xn--bcher-kva.test");
    }

    #[test]
    fn messages_in_transfer_share_a_limited_memory() {
        let mut config = Config::default();
        assert!(settings(&config).unwrap().memory.is_some());
        (config.accept.body_memory_mib, config.inbound.max_message_mib) = (64, 100);
        for (max_received_mib, expected) in [(25, 64), (100, 200)] {
            config.inbound.max_received_mib = max_received_mib;
            assert_eq!(message_memory(&config), expected << 20);
        }
    }

    #[test]
    fn certificate_and_key_are_required_together() {
        let mut inbound = Inbound { cert_file: Some("/nowhere/chain.pem".into()), ..Config::default().inbound };
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("only one of"));
        inbound.key_file = Some("/nowhere/key.pem".into());
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("/nowhere/chain.pem"));
    }
}
