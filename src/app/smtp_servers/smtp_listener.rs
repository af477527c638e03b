//! A running SMTP server of this process: for bounces and inbound routes, or for submission.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::app::hint::WithHint as _;
use crate::smtp::inbound::{Certificate, Handler, Server, Settings};

/// A running SMTP server.
#[derive(Debug)]
pub(in crate::app) struct SmtpListener {
    pub address: SocketAddr,
    /// The configuration key of the address.
    key: &'static str,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl SmtpListener {
    /// Starts a server. `key` is the configuration key of the address.
    pub(in crate::app) async fn start<H: Handler>(
        listen: SocketAddr,
        key: &'static str,
        settings: Settings,
        handler: Arc<H>,
    ) -> anyhow::Result<Self> {
        let server = Server::bind(listen, settings, handler)
            .await
            .with_context(|| format!("cannot receive messages on {listen} ({key})"))?;
        let (address, stop) = (server.local_addr(), CancellationToken::new());
        Ok(Self { address, key, running: tokio::spawn(server.run(stop.clone())), stop })
    }

    /// Stops the server once every message in transfer has a reply.
    pub(in crate::app) async fn stop(self) {
        self.stop.cancel();
        if self.running.await.is_err() {
            tracing::error!(event = "inbound_server_panicked", key = self.key, "SMTP server panicked");
        }
    }
}

/// Reads the certificate of a section of the configuration, if it has one.
pub(in crate::app) fn certificate(
    section: &str,
    chain: Option<&Path>,
    key: Option<&Path>,
) -> anyhow::Result<Option<Certificate>> {
    match (chain, key) {
        (None, None) => Ok(None),
        (Some(chain), Some(key)) => {
            let read = Certificate::read(chain, key);
            Ok(Some(read.with_context(|| format!("{section}.cert_file, {section}.key_file"))?))
        }
        _ => {
            Err(anyhow!("only one of {section}.cert_file and {section}.key_file is set")).with_hint("set both, or none")
        }
    }
}
