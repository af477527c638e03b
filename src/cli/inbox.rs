//! `postrider inbox`: runs only the inbox of `postrider dev`, for a compose file or a test environment.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::response::Redirect;
use axum::routing::get;

use super::signals::Signals;
use crate::app::{Server, WithHint as _, listen};
use crate::clock::SystemClock;
use crate::dev;
use crate::dev::inbox::Inbox;
use crate::http::{self, ServerLimits};
use crate::smtp::inbound;
use tokio_util::sync::CancellationToken;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Address on which to receive messages over SMTP
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1025")]
    smtp: SocketAddr,
    /// Address on which to serve GET /v1/dev/inbox
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8025")]
    http: SocketAddr,
    /// Directory for the messages
    #[arg(long, value_name = "DIR", default_value = ".postrider/inbox")]
    dir: PathBuf,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))
        .with_hint("choose another directory with --dir")?;
    keep_out_of_git(&args.dir)?;
    let inbox = Inbox::open(args.dir, Arc::new(SystemClock)).await?;
    let catcher = Catcher::start(args.smtp, inbox.clone()).await?;
    let server = Server::start(listen(args.http).await?, router(inbox.clone()), ServerLimits::default())?;
    let signals = Signals::listen()?;
    tracing::info!(event = "inbox_started", smtp = %catcher.address, http = %server.address, "inbox is running");
    signals.stop_requested().await;
    inbox.stop_waiting();
    catcher.stop().await;
    server.stop(Duration::from_secs(5)).await;
    Ok(ExitCode::SUCCESS)
}

fn router(inbox: Arc<Inbox>) -> Router {
    let routes =
        Router::new().route("/healthz", get(http::healthz)).route("/", get(|| async { Redirect::to("/inbox") }));
    http::finish(dev::complete(routes, inbox, false))
}

/// Writes a `.gitignore` into the directory that excludes the whole directory from a surrounding repository. The
/// directory contains messages, and with `dev` also keys.
pub(super) fn keep_out_of_git(dir: &Path) -> anyhow::Result<()> {
    let path = dir.join(".gitignore");
    match std::fs::OpenOptions::new().write(true).create_new(true).open(&path) {
        Ok(mut file) => file.write_all(b"*\n"),
        // Keep a file that the user wrote.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
    .with_context(|| format!("cannot write {}", path.display()))
}

/// The inbox's SMTP server.
#[derive(Debug)]
pub(super) struct Catcher {
    pub address: SocketAddr,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Catcher {
    /// Starts the server on `address`.
    pub(super) async fn start(address: SocketAddr, inbox: Arc<Inbox>) -> anyhow::Result<Self> {
        let server = inbound::Server::bind(
            address,
            inbound::Settings {
                section: "inbox",
                authentication: inbound::Authentication::AcceptsAny,
                ..inbound::Settings::default()
            },
            inbox,
        )
        .await
        .with_context(|| format!("the inbox cannot listen on {address}"))?;
        let address = server.local_addr();
        let stop = CancellationToken::new();
        Ok(Self { address, running: tokio::spawn(server.run(stop.clone())), stop })
    }

    /// Stops the server once the messages in transfer have been received.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        let _ = self.running.await;
    }
}
