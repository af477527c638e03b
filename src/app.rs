//! Builds the parts from the configuration, runs the roles, and stops them in the order that loses nothing: first no
//! new requests, then what was accepted is committed, then what is being sent is finished.

mod bounce_intake;
mod delivery;
pub mod descriptors;
pub(crate) mod domains;
pub mod fingerprints;
mod routes;
mod server_watch;
mod webhooks;

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::Acceptor;
use crate::accept::request::Limits;
use crate::clock::SharedClock;
use crate::config::{Config, SecretUrl};
use crate::db::{self, Db, Opening};
use crate::dev::inbox::Inbox;
use crate::group_commit::GroupCommit;
pub use crate::http::Server;
use crate::http::{self, Api};
use crate::smtp;
use crate::webhook::Poster;
use crate::worker::{self, Worker};
use bounce_intake::InboundServer;
pub use domains::settings as domain_settings;
use server_watch::ServerWatch;
pub use webhooks::guard;

/// Which parts of the service a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// API and worker.
    All,
    /// The API alone.
    Api,
    /// A worker alone.
    Worker,
}

/// A running service.
#[derive(Debug)]
pub struct App {
    db: Db,
    wake: Arc<Notify>,
    server: Option<Server>,
    /// Serves the pages for recipients alone.
    public: Option<Server>,
    /// Takes mail that comes back.
    inbound: Option<InboundServer>,
    /// The acceptor's tasks; they end when the last request has.
    accepting: TaskTracker,
    worker: Option<JoinHandle<()>>,
    /// Ends the worker's claiming and the chores.
    stop: CancellationToken,
}

/// How long requests that are under way may take when the service stops.
const REQUEST_GRACE: Duration = Duration::from_secs(30);

impl App {
    /// Starts the roles. With `inbox`, the API shows it.
    pub async fn start(
        config: &Config,
        roles: Roles,
        clock: SharedClock,
        inbox: Option<Arc<Inbox>>,
    ) -> anyhow::Result<Self> {
        // What cannot be is told before anything is touched.
        bounce_intake::paths(config)?;
        let db = open(config, true)?;
        server_watch::ready(&db).await?;
        db::schema::check(&db).await?;
        for problem in db::pool::durability::check(&db).await? {
            tracing::warn!("{problem}");
        }
        // Connections of its own: requests that wait for theirs must never keep a heartbeat from being sent.
        let working = if roles == Roles::Api { None } else { Some(open(config, true)?) };
        // Before anything is done that depends on the time.
        let watch = ServerWatch::start(config, clock.clone(), db.clone(), working.clone()).await?;
        warn_of_copies(config);
        if let Err(error) = db::schema::partitions::ensure(&db, clock.now()).await {
            tracing::warn!(%error, "could not make partitions ahead; trying again in an hour");
        }
        let wake = Arc::new(Notify::new());
        let accepting = TaskTracker::new();
        // The listener first: a port that is taken must not cost a worker's registration.
        let listeners = Listeners::bind(config, roles).await?;
        let limits = descriptors::http_limits(config, roles, inbox.is_some())?;
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(keep_partitions(db.clone(), clock.clone())));
        let group_commit = GroupCommit::start(&db, &clock);
        let worker = match working {
            None => None,
            Some(working) => {
                // Large, and awaited once.
                let worker =
                    Box::pin(worker(config, working, clock.clone(), wake.clone(), group_commit.clone())).await?;
                let stop = stop.clone();
                Some(tokio::spawn(async move { worker.run(stop).await }))
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
        let mut inbound = None;
        let (server, public) = match listeners {
            Some(Listeners { api: listener, public }) => {
                let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
                inbound = InboundServer::start(config, feedback.clone()).await?;
                let table = routes::table(config);
                let acceptor =
                    Acceptor::new(db.clone(), clock.clone(), table, group_commit.clone(), wake.clone(), &accepting);
                let settings = api_settings(config, &db, &clock)?;
                let api = Api::new(db.clone(), clock, Arc::new(acceptor), feedback, settings, stop.clone());
                let public = public.map(|listener| Server::start(listener, http::public(api.clone()), limits.public));
                (Some(Server::start(listener, http::router(api, inbox), limits.api)?), public.transpose()?)
            }
            None => (None, None),
        };
        accepting.close();
        Ok(Self { db, wake, server, public, inbound, accepting, worker, stop })
    }

    /// Where the API listens.
    pub fn api_address(&self) -> Option<SocketAddr> {
        self.server.as_ref().map(|server| server.address)
    }

    /// Where the pages for recipients are served alone.
    pub fn public_address(&self) -> Option<SocketAddr> {
        self.public.as_ref().map(|server| server.address)
    }

    /// Where mail that comes back is taken.
    pub fn inbound_address(&self) -> Option<SocketAddr> {
        self.inbound.as_ref().map(|inbound| inbound.address)
    }

    /// The signal that tells workers in this process of new messages.
    pub fn wake(&self) -> Arc<Notify> {
        self.wake.clone()
    }

    /// Stops: every request that was answered 202 is committed, every mail that is being sent is finished.
    pub async fn stop(self) {
        self.stop.cancel();
        let taking = async {
            if let Some(inbound) = self.inbound {
                inbound.stop().await;
            }
        };
        let serve = async |server: Option<Server>| {
            if let Some(server) = server {
                server.stop(REQUEST_GRACE).await;
            }
        };
        tokio::join!(taking, serve(self.server), serve(self.public));
        // A connection whose client does not read keeps its part of the API alive; it must not keep us.
        if tokio::time::timeout(REQUEST_GRACE, self.accepting.wait()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
        if let Some(running) = self.worker
            && running.await.is_err()
        {
            tracing::error!("the worker ended in a panic");
        }
        self.db.close().await;
    }
}

/// Says which settings make copies of mail when the service stops.
fn warn_of_copies(config: &Config) {
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

/// The sockets of the API.
#[derive(Debug)]
struct Listeners {
    api: TcpListener,
    public: Option<TcpListener>,
}

impl Listeners {
    async fn bind(config: &Config, roles: Roles) -> anyhow::Result<Option<Self>> {
        if roles == Roles::Worker {
            return Ok(None);
        }
        let api = listen(config.listen).await?;
        let public = config.public_listen.map(|address| listen_as(address, "POSTRIDER_PUBLIC_LISTEN"));
        Ok(Some(Self { api, public: public.transpose()? }))
    }
}

/// Between two looks whether next week's partitions are there: they are made two weeks ahead.
const PARTITIONS_EVERY: Duration = Duration::from_hours(1);

async fn keep_partitions(db: Db, clock: SharedClock) {
    loop {
        tokio::time::sleep(PARTITIONS_EVERY).await;
        if let Err(error) = db::schema::partitions::ensure(&db, clock.now()).await {
            tracing::warn!(%error, "could not make partitions ahead; trying again in an hour");
        }
    }
}

/// Listens, or says which setting to change.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    listen_as(address, "POSTRIDER_LISTEN")
}

fn listen_as(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    http::bind(address).map_err(|error| {
        let fix = match error.kind() {
            ErrorKind::AddrInUse => format!("stop the program that does, or choose another address with {setting}"),
            ErrorKind::AddrNotAvailable => {
                format!("this machine has no such address; set {setting} to one of its own, or to 0.0.0.0 for all")
            }
            ErrorKind::PermissionDenied => {
                format!("ports below 1024 need CAP_NET_BIND_SERVICE; choose another with {setting}")
            }
            _ => format!("choose another address with {setting}"),
        };
        anyhow::anyhow!("cannot listen on {address} ({error}): {fix}")
    })
}

/// Where the database is, without credentials, for error messages.
pub fn database_target(config: &Config) -> String {
    config.database.url.as_ref().map_or_else(|| "no database".into(), ToString::to_string)
}

/// The pool of connections of a command.
pub fn database(config: &Config) -> anyhow::Result<Db> {
    open(config, false)
}

fn open(config: &Config, is_service: bool) -> anyhow::Result<Db> {
    let database = &config.database;
    let url = database.url.as_ref().context(
        "no database is configured: set DATABASE_URL (such as postgres://user:password@host/postrider), or try \
         `postrider dev`, which brings its own",
    )?;
    Ok(Db::open(&Opening {
        url: url.expose(),
        direct_url: database.direct_url.as_ref().map(SecretUrl::expose),
        max_connections: database.max_connections,
        timeout: database.timeout,
        is_service,
    })?)
}

/// A worker that is registered and not yet running, and that shares its process with no API.
pub async fn build_worker(config: &Config, db: Db, clock: SharedClock, wake: Arc<Notify>) -> anyhow::Result<Worker> {
    let group_commit = GroupCommit::start(&db, &clock);
    worker(config, db, clock, wake, group_commit).await
}

async fn worker(
    config: &Config,
    db: Db,
    clock: SharedClock,
    wake: Arc<Notify>,
    group_commit: Arc<GroupCommit>,
) -> anyhow::Result<Worker> {
    let delivery = &config.delivery;
    let settings = worker::Settings {
        concurrency: delivery.concurrency as usize,
        connections: delivery.connections as usize,
        memory: u64::from(delivery.memory_mib) << 20,
        lease: delivery.lease,
        policy: delivery.retry_policy(),
        routes: routes::table(config),
        returns: bounce_intake::of_worker(config)?,
        links: config.unsubscribe_links(),
        grace: delivery.shutdown_grace,
        publish: domains::terms(config),
        fingerprints: fingerprints::of(config),
        keyring: config.keyring(),
    };
    let dependencies = worker::Dependencies {
        sender: Arc::new(smtp::Sender::new(sender_settings(config)?)?),
        poster: Arc::new(Poster::new(webhooks::guard(config)?, config.webhooks.timeout)?),
        senders: domains::senders(config, db.clone(), clock.clone()),
        dns: domains::asker(config)?,
        group_commit,
    };
    Ok(Worker::start(db, clock, dependencies, settings, wake).await?)
}

/// How mail is sent.
pub fn sender_settings(config: &Config) -> anyhow::Result<smtp::Settings> {
    let waits = &config.timeouts;
    Ok(smtp::Settings {
        hostname: hostname(config),
        relay: routes::default_relay(config)?,
        routes: routes::relays(config)?,
        dns: config.dns,
        mx_port: config.mx_port,
        mx_tls: config.delivery.tls_ascii(),
        connections: config.delivery.connections as usize,
        mails_per_connection: config.delivery.mails_per_connection,
        timeouts: smtp::Timeouts {
            connect: waits.connect,
            greeting: waits.command,
            ehlo: waits.command,
            mail: waits.command,
            rcpt: waits.command,
            data: waits.data,
            block: waits.block,
            final_dot: waits.final_dot,
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

/// The name given in EHLO.
fn hostname(config: &Config) -> String {
    config.hostname.clone().unwrap_or_else(machine_name)
}

fn api_settings(config: &Config, db: &Db, clock: &SharedClock) -> anyhow::Result<http::Settings> {
    Ok(http::Settings {
        max_body: u64::from(config.accept.max_body_mib) << 20,
        max_inbound: config.inbound.max_message(),
        body_memory: u64::from(config.accept.body_memory_mib) << 20,
        limits: Limits {
            recipients: config.accept.max_recipients as usize,
            attachments: config.accept.max_attachments as usize,
            ..Limits::default()
        },
        delivery: delivery::delivery_info(config)?,
        check_target: webhooks::target_check(config)?,
        domains: domains::settings(config, db, clock)?,
        links: config.unsubscribe_links(),
    })
}

/// The machine's own name, where the system tells it and it can stand in EHLO.
fn machine_name() -> String {
    let name = std::fs::read_to_string(PathBuf::from("/proc/sys/kernel/hostname")).unwrap_or_default();
    let name = name.trim();
    let fits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    if fits { name.to_owned() } else { "localhost".into() }
}
