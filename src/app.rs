//! Builds the service from the configuration, runs its roles, and stops them in an order that loses no messages: it
//! first refuses new requests, then commits accepted messages, then finishes messages in flight.

mod bounce_intake;
mod dashboard;
mod delivery;
pub mod descriptors;
pub(crate) mod domains;
pub mod fingerprints;
mod gauges;
mod hint;
mod listeners;
mod outbound_http;
mod routes;
mod server_watch;
mod startup;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::accept::actions::runner::ActionRunner;
use crate::accept::bulk::expander::Expander;
use crate::accept::request::Limits;
use crate::accept::{Acceptor, WakeNotifier};
use crate::clock::SharedClock;
use crate::config::{Config, SecretUrl};
use crate::db::{self, Db, DbOptions};
use crate::dev::inbox::Inbox;
use crate::domain::event::resend::Mapping;
use crate::domain::key::Secret;
use crate::group_commit::{self, GroupCommit, Outcomes};
pub use crate::http::Server;
use crate::http::{self, Allowances, Api, MetricsAccess, Readiness};
use crate::rendering::Renderer;
use crate::simulator::Simulator;
use crate::smtp;
use crate::ui::Dashboard;
use crate::webhook::Poster;
use crate::worker::{self, Worker};
use bounce_intake::InboundServer;
pub use domains::settings as domain_settings;
pub use hint::{Hinted, WithHint};
pub use listeners::listen;
pub use outbound_http::guard;
use server_watch::ServerWatch;
use startup::Startup;

/// The roles that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// API and worker.
    All,
    /// Only the API.
    Api,
    /// Only a worker.
    Worker,
}

/// A running service.
#[derive(Debug)]
pub struct App {
    db: Db,
    wake: Arc<Notify>,
    server: Option<Server>,
    /// Serves only the pages for recipients.
    public: Option<Server>,
    /// Serves metrics and probes.
    ops: Option<Server>,
    readiness: Arc<Readiness>,
    /// How long requests are still accepted after a stop was requested.
    drain_delay: Duration,
    /// Receives bounces and complaints.
    inbound: Option<InboundServer>,
    /// The acceptor's tasks; they end with the last request.
    accepting: TaskTracker,
    /// The limits of API keys, if the API is served.
    allowances: Option<Arc<Allowances>>,
    /// The dashboard, if it is served.
    dashboard: Option<Dashboard>,
    worker: Option<JoinHandle<()>>,
    /// Stops the worker's claiming and the background tasks.
    stop: CancellationToken,
    /// Updates the metrics until the end.
    _gauges: [AbortOnDropHandle<()>; 2],
}

/// How long requests in progress may take when the service stops.
const REQUEST_GRACE: Duration = Duration::from_secs(30);

impl App {
    /// Starts the roles. The API also serves the `inbox`, if there is one.
    pub async fn start(
        config: &Config,
        roles: Roles,
        clock: SharedClock,
        inbox: Option<Arc<Inbox>>,
    ) -> anyhow::Result<Self> {
        let Startup { db, listeners, limits, readiness, ops } =
            startup::prepare(config, roles, inbox.is_some()).await?;
        // A separate pool: requests that wait for a connection must never delay a heartbeat.
        let worker_db = if roles == Roles::Api { None } else { Some(open(config, true)?) };
        // This sets the clock, so it must come before everything that depends on the time.
        let watch = ServerWatch::start(config, clock.clone(), db.clone(), worker_db.clone()).await?;
        warn_about_duplicates(config);
        if let Err(error) = db::schema::partitions::ensure(&db, clock.now()).await {
            tracing::warn!(
                event = "partitions_failed",
                %error,
                "failed to create partitions ahead of time; trying again in an hour"
            );
        }
        let wake = Arc::new(Notify::new());
        let accepting = TaskTracker::new();
        let stop = CancellationToken::new();
        let worker_pools = worker_db.clone();
        tokio::spawn(stop.clone().run_until_cancelled_owned(create_partitions_periodically(db.clone(), clock.clone())));
        let (outcomes, pending) = group_commit::outcomes();
        let renderer = Arc::new(Renderer::default());
        let worker = match worker_db {
            None => None,
            // Boxed, because the future is large.
            Some(worker_db) => {
                let worker = worker(config, worker_db, clock.clone(), wake.clone(), outcomes, renderer.clone());
                Some(Box::pin(worker).await?)
            }
        };
        let notifier = listeners.api.as_ref().map(|_| WakeNotifier::start(db.clone(), wake.clone(), &accepting));
        let signals = notifier.as_ref().map_or_else(Vec::new, WakeNotifier::signals);
        let local = worker.as_ref().map(|worker| worker.local(pending));
        let group_commit = GroupCommit::start(&db, &clock, signals, local);
        let worker = worker.map(|worker| {
            let stop = stop.clone();
            tokio::spawn(async move { worker.run(stop).await })
        });
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
        let (mut inbound, mut allowances, mut dashboard) = (None, None, None);
        let (server, public) = match listeners.api.zip(notifier) {
            Some((listener, notifier)) => {
                let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
                inbound = InboundServer::start(config, feedback.clone()).await?;
                let table = routes::table(config);
                let acceptor = Acceptor::new(db.clone(), clock.clone(), table, group_commit, notifier, &accepting);
                let acceptor = Arc::new(acceptor);
                let expander = Expander::new(acceptor.clone(), renderer.clone(), clock.clone());
                accepting.spawn(expander.run(stop.clone()));
                let runner = ActionRunner::new(acceptor.clone(), clock.clone());
                accepting.spawn(runner.run(stop.clone()));
                let settings = api_settings(config, &db, &clock, renderer, readiness.clone())?;
                let api = Api::new(db.clone(), clock.clone(), acceptor, feedback, settings, stop.clone());
                allowances = Some(api.allowances());
                dashboard = dashboard::build(config, &api, clock.clone(), inbox.is_some())?;
                let pages = dashboard.as_ref().map(Dashboard::router).unwrap_or_default();
                let public =
                    listeners.public.map(|listener| Server::start(listener, http::public(api.clone()), limits.public));
                (Some(Server::start(listener, http::router_with(api, inbox, pages), limits.api)?), public.transpose()?)
            }
            None => (None, None),
        };
        accepting.close();
        let dashboard_pools = dashboard.as_ref().map(|dashboard| dashboard.db().clone());
        let pools = gauges::Pools { api: db.clone(), worker: worker_pools, dashboard: dashboard_pools };
        let gauges = gauges::start(pools, &clock, config.delivery.lease);
        readiness.set_running();
        let drain_delay = config.http.drain_delay;
        Ok(Self {
            db,
            wake,
            server,
            public,
            ops,
            readiness,
            drain_delay,
            inbound,
            accepting,
            allowances,
            dashboard,
            worker,
            stop,
            _gauges: gauges,
        })
    }

    /// Returns the address on which the API listens.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    /// Returns the address on which only the pages for recipients are served.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(|server| server.address)
    }

    /// Returns the address on which metrics and probes are served.
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.as_ref().map(|server| server.address)
    }

    /// Returns the address on which bounces and complaints are received.
    pub fn inbound_address(&self) -> Option<SocketAddr> {
        self.inbound.as_ref().map(|inbound| inbound.address)
    }

    /// Returns a path that signs in to the dashboard with this API key, once and within ten minutes. `None` without a
    /// dashboard.
    pub async fn dashboard_sign_in_path(&self, secret: &str) -> anyhow::Result<Option<String>> {
        match &self.dashboard {
            Some(dashboard) => Ok(dashboard.sign_in_path(secret).await?),
            None => Ok(None),
        }
    }

    /// Shows this API key in the examples of the dashboard.
    pub fn show_in_dashboard(&self, secret: &str) {
        if let Some(dashboard) = &self.dashboard {
            dashboard.show_in_examples(secret.to_owned());
        }
    }

    /// Returns the signal that notifies workers in this process of new messages.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Stops the service. Every message accepted with 202 is committed, and messages in flight are finished.
    pub async fn stop(self) {
        self.drain().await;
        self.stop.cancel();
        let stop_inbound = async {
            if let Some(inbound) = self.inbound {
                inbound.stop().await;
            }
        };
        let serve = async |server: Option<Server>| {
            if let Some(server) = server {
                server.stop(REQUEST_GRACE).await;
            }
        };
        tokio::join!(stop_inbound, serve(self.server), serve(self.public));
        // A client that does not read keeps its connection's task alive; it must not delay the stop.
        if tokio::time::timeout(REQUEST_GRACE, self.accepting.wait()).await.is_err() {
            tracing::warn!(
                event = "connections_not_ended",
                "some connections did not end in time; stopping without them"
            );
        }
        // Before the worker ends, which may take long.
        if let Some(allowances) = self.allowances {
            allowances.release_all().await;
        }
        if let Some(running) = self.worker
            && running.await.is_err()
        {
            tracing::error!(
                event = "worker_panicked",
                "worker panicked; other workers rescue its leases when they expire"
            );
        }
        if let Some(dashboard) = self.dashboard {
            dashboard.db().close().await;
        }
        serve(self.ops).await;
        self.db.close().await;
    }

    /// Lets the readiness probe fail. Everything else works for the configured time, so that load balancers find another
    /// process before this one refuses connections.
    async fn drain(&self) {
        self.readiness.drain();
        if self.server.is_some() && !self.drain_delay.is_zero() {
            let seconds = self.drain_delay.as_secs_f64();
            tracing::info!(event = "draining", seconds, "readiness probe fails; still serving requests");
            tokio::time::sleep(self.drain_delay).await;
        }
    }
}

/// Warns about settings that can send messages twice when the service stops.
fn warn_about_duplicates(config: &Config) {
    let (grace, final_dot) = (config.delivery.shutdown_grace, config.timeouts.final_dot);
    if grace < final_dot {
        tracing::warn!(
            event = "shutdown_grace_short",
            shutdown_grace_seconds = grace.as_secs(),
            final_dot_seconds = final_dot.as_secs(),
            "a stop may send messages twice: set delivery.shutdown_grace above timeouts.final_dot"
        );
    }
}

/// Interval of the check that partitions exist; they are created two weeks ahead.
const PARTITION_INTERVAL: Duration = Duration::from_hours(1);

async fn create_partitions_periodically(db: Db, clock: SharedClock) {
    loop {
        tokio::time::sleep(PARTITION_INTERVAL).await;
        if let Err(error) = db::schema::partitions::ensure(&db, clock.now()).await {
            tracing::warn!(
                event = "partitions_failed",
                %error,
                "failed to create partitions ahead of time; trying again in an hour"
            );
        }
    }
}

/// Returns the database's address, without credentials, for error messages.
pub fn database_target(config: &Config) -> String {
    config.database.url.as_ref().map_or_else(|| "no database".into(), ToString::to_string)
}

/// Opens the connection pool for a command.
pub fn database(config: &Config) -> anyhow::Result<Db> {
    open(config, false)
}

fn open(config: &Config, is_service: bool) -> anyhow::Result<Db> {
    let database = &config.database;
    open_pool(config, database.max_connections, database.timeout, is_service)
}

/// Opens a connection pool of this size, whose calls have this time limit.
fn open_pool(config: &Config, max_connections: u32, timeout: Duration, is_service: bool) -> anyhow::Result<Db> {
    let database = &config.database;
    let url = database.url.as_ref().context("no database is configured").with_hint(
        "set DATABASE_URL (such as postgres://user:password@host/postrider), or try `postrider dev`, which starts its own",
    )?;
    Ok(Db::open(&DbOptions {
        url: url.expose(),
        direct_url: database.direct_url.as_ref().map(SecretUrl::expose),
        max_connections,
        timeout,
        is_service,
    })?)
}

/// Registers a worker in a process without an API. The worker does not run yet.
pub async fn build_worker(config: &Config, db: Db, clock: SharedClock, wake: Arc<Notify>) -> anyhow::Result<Worker> {
    let (outcomes, pending) = group_commit::outcomes();
    let worker = worker(config, db.clone(), clock.clone(), wake, outcomes, Arc::default()).await?;
    // The writers run until the worker is dropped.
    drop(GroupCommit::start(&db, &clock, Vec::new(), Some(worker.local(pending))));
    Ok(worker)
}

async fn worker(
    config: &Config,
    db: Db,
    clock: SharedClock,
    wake: Arc<Notify>,
    outcomes: Arc<Outcomes>,
    renderer: Arc<Renderer>,
) -> anyhow::Result<Worker> {
    let delivery = &config.delivery;
    let settings = worker::Settings {
        concurrency: delivery.concurrency as usize,
        connections: delivery.connections as usize,
        memory: u64::from(delivery.memory_mib) << 20,
        lease: delivery.lease,
        policy: delivery.retry_policy(),
        routes: routes::table(config),
        returns: bounce_intake::worker_returns(config)?,
        links: config.unsubscribe_links(),
        grace: delivery.shutdown_grace,
        dns_settings: domains::dns_settings(config),
        fingerprints: fingerprints::from_config(config),
        keyring: config.keyring(),
        unused_blobs: config.retention.unused_blobs,
        conversations: config.retention.conversations,
        resend_events: Mapping { relayed_as_delivered: config.resend.relayed_as_delivered },
    };
    let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
    let simulator = Simulator::new(db.clone(), clock.clone(), feedback, config.unsubscribe_links());
    let dependencies = worker::Dependencies {
        sender: Arc::new(smtp::Sender::new(sender_settings(config)?)?),
        simulator: Arc::new(simulator),
        poster: Arc::new(Poster::new(outbound_http::guard(config)?, config.webhooks.timeout)?),
        senders: domains::senders(config, db.clone(), clock.clone()),
        dns: domains::uncached_resolver(config)?,
        outcomes,
        renderer,
    };
    Ok(Worker::start(db, clock, dependencies, settings, wake).await?)
}

/// Returns the settings of the SMTP client.
pub fn sender_settings(config: &Config) -> anyhow::Result<smtp::Settings> {
    let timeouts = &config.timeouts;
    Ok(smtp::Settings {
        hostname: hostname(config),
        relay: routes::default_relay(config)?,
        routes: routes::relays(config)?,
        dns: config.dns,
        mx_port: config.mx_port,
        mx_tls: config.delivery.tls_ascii(),
        connections: config.delivery.connections as usize,
        messages_per_connection: config.delivery.messages_per_connection,
        timeouts: smtp::Timeouts {
            connect: timeouts.connect,
            greeting: timeouts.command,
            ehlo: timeouts.command,
            mail: timeouts.command,
            rcpt: timeouts.command,
            data: timeouts.data,
            block: timeouts.block,
            final_dot: timeouts.final_dot,
            ..smtp::Timeouts::default()
        },
        allow_loopback_mx: config.delivery.allow_loopback_mx,
        allow_private_mx: config.delivery.private_mx(),
        mta_sts: smtp::MtaSts {
            enabled: config.delivery.mta_sts,
            ca_file: config.delivery.mx_ca_file.clone(),
            ..smtp::MtaSts::default()
        },
        ..smtp::Settings::default()
    })
}

/// Returns the name given in EHLO.
fn hostname(config: &Config) -> String {
    config.hostname.clone().unwrap_or_else(machine_name)
}

fn api_settings(
    config: &Config,
    db: &Db,
    clock: &SharedClock,
    renderer: Arc<Renderer>,
    readiness: Arc<Readiness>,
) -> anyhow::Result<http::Settings> {
    Ok(http::Settings {
        max_body: u64::from(config.accept.max_body_mib) << 20,
        max_inbound: config.inbound.max_message(),
        max_upload: u64::from(config.accept.max_upload_mib) << 20,
        body_memory: u64::from(config.accept.body_memory_mib) << 20,
        limits: Limits {
            recipients: config.accept.max_recipients as usize,
            attachments: config.accept.max_attachments as usize,
            attachment_bytes: u64::from(config.accept.max_upload_mib.max(config.accept.max_body_mib)) << 20,
            simulator: config.simulator.enabled,
            ..Limits::default()
        },
        delivery: delivery::delivery_info(config)?,
        check_target: outbound_http::target_check(config)?,
        domains: domains::settings(config, db, clock)?,
        links: config.unsubscribe_links(),
        renderer,
        trusted_proxies: config.http.proxies(),
        auth_failures_per_minute: config.http.auth_failures_per_minute,
        cell: config.cell(),
        resend: config.resend.enabled,
        relayed_as_delivered: config.resend.relayed_as_delivered,
        fetcher: outbound_http::fetcher(config)?.map(Arc::new),
        readiness,
        metrics_access: MetricsAccess {
            networks: config.metrics.networks(),
            token: config.metrics.token.as_ref().map(|token| Secret::hash(token.expose())),
        },
    })
}

/// Returns the machine's name, if it is known and valid in EHLO, and `localhost` otherwise.
fn machine_name() -> String {
    let name = std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    let is_valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if is_valid { name.to_owned() } else { "localhost".into() }
}
