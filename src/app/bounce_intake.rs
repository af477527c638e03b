//! What comes back, as the configuration has it: the return paths that workers make and that everybody else reads, the
//! server that takes mail for them, and what takes effect behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::hostname;
use crate::clock::SharedClock;
use crate::config::{Config, Inbound};
use crate::db::Db;
use crate::domain::return_path::{ReturnPaths, TokenFault};
use crate::feedback::{Feedback, Origin};
use crate::mail;
use crate::smtp::inbound::{Certificate, Handler, ReceivedMail, Server, Settings, SmtpRefusal};
use crate::telemetry::RateLimitedLog;
use crate::worker::Returns;

/// The return paths, where there is a domain for them.
pub(super) fn paths(config: &Config) -> anyhow::Result<Option<ReturnPaths>> {
    let Some(domain) = config.return_path.domain_ascii() else {
        if config.inbound.listen.is_some() {
            bail!("inbound.listen needs return_path.domain: mail is taken for return paths alone");
        }
        return Ok(None);
    };
    let keyring = config.keyring().context(
        "return_path.domain needs secret_key (POSTRIDER_SECRET_KEY), which signs return paths: take the output of \
         `openssl rand -base64 33`",
    )?;
    Ok(Some(ReturnPaths::new(keyring, domain, config.return_path.lifetime)))
}

/// The same as workers want it.
pub(super) fn of_worker(config: &Config) -> anyhow::Result<Option<Returns>> {
    let success = config.delivery.dsn_success;
    Ok(paths(config)?.map(|paths| Returns { paths, verp: config.return_path.verp, success }))
}

/// What lets it take effect.
pub(super) fn feedback(config: &Config, db: Db, clock: SharedClock) -> anyhow::Result<Arc<Feedback>> {
    // What is no address was refused when the configuration was read.
    let complaints = config.inbound.feedback.as_ref().and_then(|address| address.parse().ok());
    Ok(Arc::new(Feedback::new(db, clock, paths(config)?, complaints)))
}

/// The running server.
#[derive(Debug)]
pub(super) struct InboundServer {
    pub address: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl InboundServer {
    /// Listens, where that is configured.
    pub(super) async fn start(config: &Config, feedback: Arc<Feedback>) -> anyhow::Result<Option<Self>> {
        let Some(listen) = config.inbound.listen else { return Ok(None) };
        let server = Server::bind(listen, settings(config)?, Arc::new(Gate::new(config, feedback)))
            .await
            .with_context(|| format!("cannot take mail on {listen} (inbound.listen)"))?;
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        Ok(Some(Self { address, running: tokio::spawn(server.run(stop.clone())), stop }))
    }

    /// Takes no more, once mails in transfer have been answered.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        if self.running.await.is_err() {
            tracing::error!("the inbound server ended in a panic");
        }
    }
}

/// Recipients of one mail: it takes effect by the return path that it came to. A bounce has one.
const RECIPIENTS: usize = 1;
/// Refused commands of one session: whoever tries out return paths does not get far.
const ERRORS: u32 = 10;

fn settings(config: &Config) -> anyhow::Result<Settings> {
    let inbound = &config.inbound;
    Ok(Settings {
        hostname: hostname(config),
        max_message: usize::try_from(inbound.max_message()).unwrap_or(usize::MAX),
        most_kept: KEPT,
        max_recipients: RECIPIENTS,
        max_connections: inbound.connections as usize,
        max_per_peer: inbound.connections_per_peer as usize,
        mails_per_minute: Some(inbound.mails_per_minute),
        certificate: certificate(inbound)?,
        max_errors: ERRORS,
        ..Settings::default()
    })
}

fn certificate(inbound: &Inbound) -> anyhow::Result<Option<Certificate>> {
    match (&inbound.cert_file, &inbound.key_file) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            Ok(Some(Certificate::read(chain, key).context("inbound.cert_file, inbound.key_file")?))
        }
        _ => bail!("inbound.cert_file and inbound.key_file: give both, or none"),
    }
}

/// Octets of a mail that are read: reports say first what they have to say, and return the mail last. What is beyond is
/// read over, since who returns a large mail whole must not be refused.
const KEPT: usize = 1 << 20;

/// Lets in what is for us.
struct Gate {
    feedback: Arc<Feedback>,
    forged: RateLimitedLog,
    /// Domains whose postmaster we are: that of return paths, and this host's name.
    domains: Vec<String>,
    postmaster: Mutex<Minute>,
}

/// Mails to postmaster that are taken a minute: each is a line in the log.
const POSTMASTER_A_MINUTE: u32 = 60;
/// Characters of such a mail that are logged.
const POSTMASTER_TEXT: usize = 1_000;

/// How many there were in the minute that began then.
#[derive(Debug, Default)]
struct Minute {
    began: Option<Instant>,
    count: u32,
}

impl Minute {
    fn takes_one_more(&mut self, now: Instant) -> bool {
        if self.began.is_none_or(|began| now.duration_since(began) >= Duration::from_mins(1)) {
            *self = Self { began: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= POSTMASTER_A_MINUTE
    }
}

impl Gate {
    fn new(config: &Config, feedback: Arc<Feedback>) -> Self {
        let domains = config.return_path.domain_ascii().into_iter().chain([hostname(config)]).collect();
        Self { feedback, forged: RateLimitedLog::default(), domains, postmaster: Mutex::default() }
    }

    /// Whoever runs a mail server has to be reachable there (RFC 5321 §4.5.1), with a domain or without.
    fn is_postmaster(&self, to: &str) -> bool {
        let (local, domain) = to.rsplit_once('@').map_or((to, None), |(local, domain)| (local, Some(domain)));
        let is_ours = |domain: &str| self.domains.iter().any(|ours| ours.eq_ignore_ascii_case(domain));
        local.eq_ignore_ascii_case("postmaster") && domain.is_none_or(is_ours)
    }

    /// There is no mailbox here but the log.
    fn log_for_postmaster(from: &str, peer: SocketAddr, data: &[u8]) {
        let summary = mail::report::summary(data, POSTMASTER_TEXT);
        tracing::warn!(
            event = "postmaster_mail",
            sender = from,
            %peer,
            header_from = summary.from,
            subject = summary.subject,
            text = summary.text,
            "received mail for postmaster; it is kept in this log only"
        );
    }
}

impl Handler for Gate {
    async fn rcpt(&self, _from: &str, to: &str) -> Result<(), SmtpRefusal> {
        if self.is_postmaster(to) {
            let takes = self.postmaster.lock().unwrap_or_else(PoisonError::into_inner).takes_one_more(Instant::now());
            let full = || SmtpRefusal::temporary(7, 1, "Too much mail for postmaster, try again later");
            return if takes { Ok(()) } else { Err(full()) };
        }
        self.feedback.admits(to).map_err(|fault| {
            tracing::debug!(to, %fault, "mail is not for us");
            if fault == TokenFault::Forged
                && let Some(count) = self.forged.note(Instant::now())
            {
                tracing::warn!(
                    to,
                    count,
                    "return paths that are not signed by us were refused: if secret_key was changed, the one before it \
                     belongs in previous_secret_keys"
                );
            }
            let words = match fault {
                TokenFault::Expired => "This return path has expired",
                TokenFault::Missing | TokenFault::Forged => "No such mailbox; bounces of our mail are taken here alone",
            };
            SmtpRefusal::permanent(1, 1, words)
        })
    }

    async fn message(&self, mail: ReceivedMail) -> Result<String, SmtpRefusal> {
        let ReceivedMail { from, to, peer, mut data, .. } = mail;
        let logged = to.iter().any(|to| self.is_postmaster(to));
        if logged {
            Self::log_for_postmaster(&from, peer, &data);
        }
        // As the last server on a mail's way does (RFC 5321 §4.4): the first counts, whatever the mail itself says.
        data.splice(..0, format!("Return-Path: <{from}>\r\n").into_bytes());
        match self.feedback.take(data, Origin::Smtp { to: &to, peer }, false).await {
            Ok(taken) if taken.is_early() => Err(SmtpRefusal::temporary(3, 2, "Not now: the mail is still being sent")),
            Ok(_) if logged => Ok("Taken for postmaster".into()),
            Ok(taken) => Ok(format!("Taken as {}, {} recipients changed", taken.report.kind.as_str(), taken.applied())),
            // It is the other side's to keep until it is committed here.
            Err(error) => {
                tracing::warn!(%error, "a mail that came back could not take effect; its server will try again");
                Err(SmtpRefusal::temporary(3, 0, "Not now: the database cannot take it"))
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
    fn return_paths_need_a_secret_and_their_server_needs_them() {
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
    fn a_certificate_and_its_key_come_together_and_are_read_at_the_start() {
        let mut inbound = Inbound { cert_file: Some("/nowhere/chain.pem".into()), ..Inbound::default() };
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("both"));
        inbound.key_file = Some("/nowhere/key.pem".into());
        assert!(format!("{:#}", certificate(&inbound).unwrap_err()).contains("/nowhere/chain.pem"));
    }
}
