//! Builds the SMTP server for submission from the configuration: applications sign in with an API key, and their messages
//! are accepted like those of requests.

mod handler;
mod replies;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::anyhow;

use super::smtp_listener::{SmtpListener, certificate};
use crate::app::hint::WithHint as _;
use crate::app::hostname;
use crate::config::{Config, Submission as Section};
use crate::http::{Api, Submission};
use crate::smtp::inbound::{Authentication, Certificate, MessageMemory, Settings};
use handler::SubmissionHandler;

/// Maximum number of refused commands in one session, which limits clients that guess keys.
const MAX_ERRORS: u32 = 10;

/// The running SMTP servers for submission.
#[derive(Debug, Default)]
pub(in crate::app) struct SubmissionServers {
    /// With STARTTLS.
    plain: Option<SmtpListener>,
    /// With TLS from the start.
    tls: Option<SmtpListener>,
}

impl SubmissionServers {
    /// Starts the servers that are configured. In `dev`, a free port is used if the configured one is in use.
    pub(in crate::app) async fn start(config: &Config, api: &Api, is_dev: bool) -> anyhow::Result<Self> {
        let section = &config.submission;
        if section.listen.is_none() && section.tls_listen.is_none() {
            return Ok(Self::default());
        }
        let certificate = read_certificate(section)?;
        if let (Some(listen), None) = (section.listen, &certificate)
            && !listen.ip().is_loopback()
        {
            tracing::warn!(
                event = "submission_without_certificate",
                %listen,
                "submission has no certificate, so only programs on this machine can sign in; set submission.cert_file \
                 and submission.key_file"
            );
        }
        let submission = Submission::new(api, hostname(config));
        let settings = settings(config, &submission, certificate);
        let handler = Arc::new(SubmissionHandler::new(submission));
        let plain = match section.listen {
            Some(listen) => {
                let start =
                    |listen| SmtpListener::start(listen, "submission.listen", settings.clone(), handler.clone());
                match start(listen).await {
                    Err(_) if is_dev => Some(start(SocketAddr::new(listen.ip(), 0)).await?),
                    started => Some(started?),
                }
            }
            None => None,
        };
        let tls = match section.tls_listen {
            Some(listen) => {
                let settings = Settings { implicit_tls: true, ..settings };
                Some(SmtpListener::start(listen, "submission.tls_listen", settings, handler).await?)
            }
            None => None,
        };
        Ok(Self { plain, tls })
    }

    /// Returns the address with STARTTLS.
    pub(in crate::app) fn address(&self) -> Option<SocketAddr> {
        self.plain.as_ref().map(|listener| listener.address)
    }

    /// Returns the address with TLS from the start.
    pub(in crate::app) fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref().map(|listener| listener.address)
    }

    /// Stops the servers once every message in transfer has a reply.
    pub(in crate::app) async fn stop(self) {
        let stop = async |listener: Option<SmtpListener>| {
            if let Some(listener) = listener {
                listener.stop().await;
            }
        };
        tokio::join!(stop(self.plain), stop(self.tls));
    }
}

/// Fails if the section cannot be used.
pub(in crate::app) fn check(config: &Config) -> anyhow::Result<()> {
    read_certificate(&config.submission).map(drop)
}

fn read_certificate(section: &Section) -> anyhow::Result<Option<Certificate>> {
    let certificate = certificate("submission", section.cert_file.as_deref(), section.key_file.as_deref())?;
    if section.tls_listen.is_some() && certificate.is_none() {
        return Err(anyhow!("submission.tls_listen needs a certificate"))
            .with_hint("set submission.cert_file and submission.key_file");
    }
    Ok(certificate)
}

fn settings(config: &Config, submission: &Submission, certificate: Option<Certificate>) -> Settings {
    let section = &config.submission;
    let max_message = submission.max_message();
    // A growing buffer may be twice as large as its content. One message of the maximum size must always fit.
    let memory = (u64::from(config.accept.body_memory_mib) << 20).max(max_message.saturating_mul(2));
    Settings {
        section: "submission",
        hostname: hostname(config),
        max_message: usize::try_from(max_message).unwrap_or(usize::MAX),
        max_recipients: submission.max_recipients(),
        max_connections: section.connections as usize,
        max_per_peer: section.connections_per_peer as usize,
        memory: Some(MessageMemory::new(memory)),
        certificate,
        authentication: Authentication::Required,
        accepts_dsn: true,
        max_errors: MAX_ERRORS,
        grace: crate::app::shutdown::REQUEST_GRACE,
        ..Settings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn implicit_tls_needs_a_certificate() {
        let mut config = Config::default();
        config.submission.listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        assert!(check(&config).is_ok());
        config.submission.tls_listen = config.submission.listen;
        assert!(format!("{:#}", check(&config).unwrap_err()).contains("needs a certificate"));
        config.submission.cert_file = Some("/nowhere/chain.pem".into());
        assert!(format!("{:#}", check(&config).unwrap_err()).contains("only one of submission.cert_file"));
        config.submission.key_file = Some("/nowhere/key.pem".into());
        assert!(format!("{:#}", check(&config).unwrap_err()).contains("/nowhere/chain.pem"));
    }
}
