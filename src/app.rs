//! Builds the service from the configuration and runs its roles. The start of a process is in `startup`, its stop in
//! `shutdown`.

mod background;
mod dashboard;
pub mod database;
pub mod descriptors;
mod gauges;
mod hint;
mod hostname;
mod listeners;
mod read_only;
pub mod self_checks;
pub(crate) mod settings;
mod shutdown;
mod smtp_servers;
mod startup;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use self::background::Background;
use self::hostname::hostname;
use crate::accept::{self, Acceptor, WakeNotifier};
use crate::clock::SharedClock;
use crate::config::{Config, SecretUrl};
use crate::db::changes::{self, Caches};
use crate::db::{Db, DbOptions, RestoreGate};
use crate::dev::inbox::Inbox;
use crate::domain::event::resend::Mapping;
use crate::domain::records::retention::Periods;
use crate::group_commit::{self, GroupCommit, Outcomes};
pub use crate::http::Server;
use crate::http::{self, Allowances, Api, Readiness};
use crate::rendering::Renderer;
use crate::simulator::Simulator;
use crate::smtp;
use crate::ui::Dashboard;
use crate::webhook::Poster;
use crate::worker::{self, Worker};
use database::restore_guard::{self, RestoreGuard};
use database::server_watch::ServerWatch;
use database::{fingerprints, partitions};
pub use hint::{Hinted, WithHint};
pub use listeners::listen;
pub use settings::domains::settings as domain_settings;
pub use settings::outbound_http::{guard, objects};
use settings::{api_settings, domains, outbound_http, routes};
use smtp_servers::bounce_intake;
use smtp_servers::smtp_listener::SmtpListener;
use smtp_servers::submission::SubmissionServers;
use startup::Startup;
pub use startup::poll_database;

/// The roles that a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// API and worker.
    All,
    /// Only the API.
    Api,
    /// Only a worker.
    Worker,
    /// Only reads, from a database that may be a hot standby.
    ReadOnlyApi,
}

/// A running service.
#[derive(Debug)]
pub struct App {
    db: Db,
    wake: Arc<Notify>,
    caches: Arc<Caches>,
    server: Option<Server>,
    /// Serves only the pages for recipients.
    public: Option<Server>,
    /// Serves metrics and probes.
    ops: Option<Server>,
    readiness: Arc<Readiness>,
    /// How long requests are still accepted after a stop was requested.
    drain_delay: Duration,
    /// Receives bounces, complaints and messages for inbound routes.
    inbound: Option<SmtpListener>,
    /// Receives messages from applications over SMTP.
    submission: SubmissionServers,
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
    /// Checks what other servers see of this service until the end.
    _self_checks: Vec<AbortOnDropHandle<()>>,
}

impl App {
    /// Starts the roles. The API also serves the `inbox`, if there is one.
    pub async fn start(
        config: &Config,
        roles: Roles,
        clock: SharedClock,
        inbox: Option<Arc<Inbox>>,
    ) -> anyhow::Result<Self> {
        if roles == Roles::ReadOnlyApi {
            return Box::pin(read_only::start(config, clock)).await;
        }
        let restore_gate = restore_guard::gate(config);
        let Startup { db, listeners, limits, readiness, ops } =
            startup::prepare(config, roles, inbox.is_some(), &restore_gate).await?;
        // A separate pool: requests that wait for a connection must never delay a heartbeat.
        let worker_db = if roles == Roles::Api { None } else { Some(open(config, Some(&restore_gate))?) };
        // This sets the clock, so it must come before everything that depends on the time.
        let watch = ServerWatch::start(config, clock.clone(), db.clone(), worker_db.clone()).await?;
        partitions::create(&db, &clock).await;
        let wake = Arc::new(Notify::new());
        // Before anything is accepted, and before the worker registers, which would hide that the database was unused.
        let guarded = worker_db.clone().unwrap_or_else(|| db.clone());
        let guard = RestoreGuard::start(config, guarded, clock.clone(), restore_gate.clone(), wake.clone()).await?;
        let accepting = TaskTracker::new();
        let stop = CancellationToken::new();
        let worker_pools = worker_db.clone();
        tokio::spawn(
            stop.clone().run_until_cancelled_owned(partitions::create_periodically(db.clone(), clock.clone())),
        );
        let caches = Arc::new(Caches::default());
        tokio::spawn(stop.clone().run_until_cancelled_owned(changes::poll::run(db.clone(), caches.clone())));
        let (outcomes, pending) = group_commit::outcomes();
        let renderer = Arc::new(Renderer::default());
        let worker = match worker_db {
            None => None,
            // Boxed, because the future is large.
            Some(worker_db) => {
                let (renderer, restore_gate) = (renderer.clone(), restore_gate.clone());
                let shared = Shared { outcomes, renderer, restore_gate, caches: caches.clone() };
                let worker = worker(config, worker_db, clock.clone(), wake.clone(), shared);
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
        if let Some(guard) = guard {
            tokio::spawn(stop.clone().run_until_cancelled_owned(guard.run()));
        }
        let (mut inbound, mut allowances, mut dashboard) = (None, None, None);
        let mut submission = SubmissionServers::default();
        let (server, public) = match listeners.api.zip(notifier) {
            Some((listener, notifier)) => {
                let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
                let receiver = bounce_intake::receiver(config, db.clone(), clock.clone(), caches.clone())?;
                inbound = bounce_intake::start_server(config, feedback.clone(), receiver.clone()).await?;
                let (routes, caches) = (routes::table(config), caches.clone());
                let dependencies = accept::Dependencies { routes, group_commit, wake: notifier, caches };
                let acceptor = Acceptor::new(db.clone(), clock.clone(), dependencies, &accepting);
                let relay_wake = receiver.relay_wake();
                let (acceptor, gate) = (Arc::new(acceptor), &restore_gate);
                Background { config, acceptor: &acceptor, renderer: &renderer, clock: &clock, gate, relay_wake }
                    .start(&accepting, &stop)?;
                let settings =
                    api_settings::new(config, &db, acceptor.caches(), renderer, readiness.clone(), restore_gate)?;
                let received = http::Received { feedback, receiver };
                let api = Api::new(db.clone(), clock.clone(), acceptor, received, settings, stop.clone());
                allowances = Some(api.allowances());
                // Boxed to keep the future of this function small.
                submission = Box::pin(SubmissionServers::start(config, &api, inbox.is_some())).await?;
                dashboard = dashboard::build(config, &api, clock.clone(), inbox.clone())?;
                let pages = dashboard.as_ref().map(Dashboard::router);
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
        let self_checks = self_checks::start(config, roles)?;
        readiness.set_running();
        let drain_delay = config.http.drain_delay;
        Ok(Self {
            db,
            wake,
            caches,
            server,
            public,
            ops,
            readiness,
            drain_delay,
            inbound,
            submission,
            accepting,
            allowances,
            dashboard,
            worker,
            stop,
            _gauges: gauges,
            _self_checks: self_checks,
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

    /// Returns the address on which applications send messages over SMTP, with STARTTLS.
    pub fn submission_address(&self) -> Option<SocketAddr> {
        self.submission.address()
    }

    /// Returns the address on which applications send messages over SMTP, with TLS from the start.
    pub fn submission_tls_address(&self) -> Option<SocketAddr> {
        self.submission.tls_address()
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

    /// Returns the caches of this process.
    pub fn caches(&self) -> Arc<Caches> {
        self.caches.clone()
    }
}

/// Returns the database's address, without credentials, for error messages.
pub fn database_target(config: &Config) -> String {
    config.database.url.as_ref().map_or_else(|| "no database".into(), ToString::to_string)
}

/// Opens the connection pool for a command.
pub fn database(config: &Config) -> anyhow::Result<Db> {
    open(config, None)
}

/// Opens a connection pool; that of a service has a gate.
fn open(config: &Config, gate: Option<&Arc<RestoreGate>>) -> anyhow::Result<Db> {
    let database = &config.database;
    open_pool(config, database.max_connections, database.timeout, gate.is_some(), gate)
}

/// Opens the connection pool of a service without a gate.
fn open_service(config: &Config) -> anyhow::Result<Db> {
    open_pool(config, config.database.max_connections, config.database.timeout, true, None)
}

/// Opens a connection pool of this size, whose calls have this time limit.
fn open_pool(
    config: &Config,
    max_connections: u32,
    timeout: Duration,
    is_service: bool,
    gate: Option<&Arc<RestoreGate>>,
) -> anyhow::Result<Db> {
    let database = &config.database;
    let url = database.url.as_ref().context("no database is configured").with_hint(
        "set DATABASE_URL (such as postgres://user:password@host/postrider), or try `postrider dev`, which starts its own",
    )?;
    let db = Db::open(&DbOptions {
        url: url.expose(),
        direct_url: database.direct_url.as_ref().map(SecretUrl::expose),
        max_connections,
        timeout,
        is_service,
        restore_gate: gate,
    })?;
    // Commands need no attachments, and run where the credentials of the object store may be missing.
    Ok(if is_service { db.with_objects(outbound_http::objects(config)?) } else { db })
}

/// Registers a worker in a process without an API. The worker does not run yet. If nothing polls for changes of what `caches` have
/// ([`changes::poll`]), cached settings are loaded again after 0.9 s.
pub async fn build_worker(
    config: &Config,
    db: Db,
    clock: SharedClock,
    wake: Arc<Notify>,
    caches: Arc<Caches>,
) -> anyhow::Result<Worker> {
    let (outcomes, pending) = group_commit::outcomes();
    let restore_gate = Arc::new(RestoreGate::always_open());
    let shared = Shared { outcomes, renderer: Arc::default(), restore_gate, caches };
    let worker = worker(config, db.clone(), clock.clone(), wake, shared).await?;
    // The writers run until the worker is dropped.
    drop(GroupCommit::start(&db, &clock, Vec::new(), Some(worker.local(pending))));
    Ok(worker)
}

/// What a worker shares with the other parts of its process.
struct Shared {
    outcomes: Arc<Outcomes>,
    renderer: Arc<Renderer>,
    restore_gate: Arc<RestoreGate>,
    caches: Arc<Caches>,
}

async fn worker(
    config: &Config,
    db: Db,
    clock: SharedClock,
    wake: Arc<Notify>,
    shared: Shared,
) -> anyhow::Result<Worker> {
    let db = if db.objects().is_some() { db } else { db.with_objects(outbound_http::objects(config)?) };
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
        periods: retention_periods(config),
        resend_events: Mapping { relayed_as_delivered: config.resend.relayed_as_delivered },
    };
    let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
    let simulator = Simulator::new(db.clone(), clock.clone(), feedback, config.unsubscribe_links());
    let dependencies = worker::Dependencies {
        sender: Arc::new(smtp::Sender::new(sender_settings(config)?)?),
        simulator: Arc::new(simulator),
        poster: Arc::new(Poster::new(outbound_http::guard(config)?, config.webhooks.timeout)?),
        senders: domains::senders(config, db.clone(), shared.caches.clone()),
        caches: shared.caches,
        dns: domains::uncached_resolver(config)?,
        outcomes: shared.outcomes,
        renderer: shared.renderer,
        restore_gate: shared.restore_gate,
    };
    Ok(Worker::start(db, clock, dependencies, settings, wake).await?)
}

/// Returns how long data is kept.
pub fn retention_periods(config: &Config) -> Periods {
    let has_return_paths = config.return_path.domain.is_some();
    config.retention.periods(if has_return_paths { config.return_path.lifetime } else { Duration::ZERO })
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
        allow_private_relays: config.inbound.allowed_relays(),
        mta_sts: smtp::MtaSts {
            enabled: config.delivery.mta_sts,
            ca_file: config.delivery.mx_ca_file.clone(),
            ..smtp::MtaSts::default()
        },
        ..smtp::Settings::default()
    })
}
