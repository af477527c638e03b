//! Builds bounce processing from the configuration: the return paths, the SMTP server that receives messages for them,
//! and [`Feedback`], which processes these messages.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hint::WithHint as _;
use super::hostname;
use crate::clock::SharedClock;
use crate::config::{Config, Inbound};
use crate::db::Db;
use crate::domain::return_path::{ReturnPaths, TokenFault};
use crate::feedback::{Feedback, Origin};
use crate::mail;
use crate::metrics::METRICS;
use crate::metrics::labels::InboundKind;
use crate::smtp::inbound::{Certificate, Handler, ReceivedMessage, Server, Settings, SmtpRefusal};
use crate::telemetry::RateLimitedLog;
use crate::worker::Returns;

/// Returns the return paths, if a domain is configured for them.
pub(super) fn paths(config: &Config) -> anyhow::Result<Option<ReturnPaths>> {
    let Some(domain) = config.return_path.domain_ascii() else {
        if config.inbound.listen.is_some() {
            return Err(anyhow!("inbound.listen needs return_path.domain: only messages to return paths are received"))
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
pub(super) fn worker_returns(config: &Config) -> anyhow::Result<Option<Returns>> {
    let success = config.delivery.dsn_success;
    Ok(paths(config)?.map(|paths| Returns { paths, verp: config.return_path.verp, success }))
}

/// Creates the processor of bounces and complaints.
pub(super) fn feedback(config: &Config, db: Db, clock: SharedClock) -> anyhow::Result<Arc<Feedback>> {
    // Invalid addresses were refused when the configuration was read.
    let complaints = config.inbound.feedback.as_ref().and_then(|address| address.parse().ok());
    Ok(Arc::new(Feedback::new(db, clock, paths(config)?, complaints)))
}

/// The running SMTP server for bounces and complaints.
#[derive(Debug)]
pub(super) struct InboundServer {
    pub address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl InboundServer {
    /// Starts the server, if `inbound.listen` is configured.
    pub(super) async fn start(config: &Config, feedback: Arc<Feedback>) -> anyhow::Result<Option<Self>> {
        let Some(listen) = config.inbound.listen else { return Ok(None) };
        let server = Server::bind(listen, settings(config)?, Arc::new(BounceHandler::new(config, feedback)))
            .await
            .with_context(|| format!("cannot receive messages on {listen} (inbound.listen)"))?;
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        Ok(Some(Self { address, running: tokio::spawn(server.run(stop.clone())), stop }))
    }

    /// Stops the server once every message in transfer has a reply.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if self.running.await.is_err() {
            tracing::error!(event = "inbound_server_panicked", "inbound server panicked");
        }
    }
}

/// Maximum number of recipients of one message. A bounce has one, the return path that identifies its message.
const MAX_RECIPIENTS: usize = 1;
/// Maximum number of refused commands in one session, which limits clients that guess return paths.
const MAX_ERRORS: u32 = 10;

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let inbound = &config.inbound;
    Ok(Settings {
        hostname: hostname(config),
        max_message: usize::try_from(inbound.max_message()).unwrap_or(usize::MAX),
        max_stored: PARSED_BYTES,
        max_recipients: MAX_RECIPIENTS,
        max_connections: inbound.connections as usize,
        max_per_peer: inbound.connections_per_peer as usize,
        messages_per_minute: Some(inbound.messages_per_minute),
        certificate: certificate(inbound)?,
        max_errors: MAX_ERRORS,
        ..Settings::default()
    })
}

fn certificate(inbound: &Inbound) -> anyhow::Result<Option<Certificate>> {
    match (&inbound.cert_file, &inbound.key_file) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            Ok(Some(Certificate::read(chain, key).context("inbound.cert_file, inbound.key_file")?))
        }
        _ => Err(anyhow!("only one of inbound.cert_file and inbound.key_file is set")).with_hint("set both, or none"),
    }
}

/// Maximum number of bytes of a message that are parsed. Reports come first and the returned message last; the server
/// reads the rest and drops it, so that a bounce with a large returned message is not refused.
const PARSED_BYTES: usize = 1 << 20;

/// Accepts messages to return paths, to the complaint address and to postmaster.
struct BounceHandler {
    feedback: Arc<Feedback>,
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

impl BounceHandler {
    fn new(config: &Config, feedback: Arc<Feedback>) -> Self {
        let domains = config.return_path.domain_ascii().into_iter().chain([hostname(config)]).collect();
        let logs_content = config.log.personal_data;
        Self { feedback, forged: RateLimitedLog::default(), domains, postmaster: Mutex::default(), logs_content }
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

impl Handler for BounceHandler {
    async fn rcpt(&self, _from: &str, to: &str) -> Result<(), SmtpRefusal> {
        if self.is_postmaster(to) {
            let is_admitted = self.postmaster.lock().admits_one_more(Instant::now());
            let refusal = || SmtpRefusal::temporary(7, 1, "Too many messages for postmaster, try again later");
            return if is_admitted { Ok(()) } else { Err(refusal()) };
        }
        self.feedback.admits(to).map_err(|fault| {
            METRICS.inbound_mails.get((InboundKind::Refused,)).increment(1);
            tracing::debug!(to, %fault, "refused a recipient that is not a return path");
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
            let text = match fault {
                TokenFault::Expired => "This return path has expired",
                TokenFault::Missing | TokenFault::Forged => {
                    "No such mailbox; this server accepts only bounces of its own messages"
                }
            };
            SmtpRefusal::permanent(1, 1, text)
        })
    }

    async fn message(&self, mail: ReceivedMessage) -> Result<String, SmtpRefusal> {
        let ReceivedMessage { from, to, peer, mut data, .. } = mail;
        let is_for_postmaster = to.iter().any(|to| self.is_postmaster(to));
        if is_for_postmaster {
            self.log_for_postmaster(&from, peer, &data);
        }
        // The final delivery server adds this header (RFC 5321 §4.4). The parser uses the first one, so that the
        // message cannot override it.
        data.splice(..0, format!("Return-Path: <{from}>\r\n").into_bytes());
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
                Err(SmtpRefusal::temporary(3, 0, "Try again later: the database is unavailable"))
            }
        }
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
    fn certificate_and_key_are_required_together() {
        let mut inbound = Inbound { cert_file: Some("/nowhere/chain.pem".into()), ..Config::default().inbound };
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("only one of"));
        inbound.key_file = Some("/nowhere/key.pem".into());
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("/nowhere/chain.pem"));
    }
}
