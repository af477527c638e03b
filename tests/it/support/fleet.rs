//! Three replicas of the program on one Postgres, with applications that send and a sink that counts messages. Tests
//! can inject faults into the replicas, Postgres, the connections to it, and the sink.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use super::client::Api;
use super::invariants;
use super::load::{Load, Replicas};
use super::own_postgres::OwnPostgres;
use super::process::{Service, key, serve};
use super::sink::{Behavior, Sink};
use super::until::until;

/// The number of replicas.
pub const SIZE: usize = 3;
/// `delivery.lease`: other replicas release the leases of a replica without a heartbeat for this long.
pub const LEASE: Duration = Duration::from_secs(2);
/// Time limit for sending all messages after the faults. It is long because an unreachable destination is probed only
/// from time to time.
const DRAIN_TIMEOUT: Duration = Duration::from_mins(4);

/// The roles of the replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Each replica has both roles.
    Whole,
    /// The first two run the API, the last a worker.
    Split,
}

pub struct Fleet {
    pub postgres: OwnPostgres,
    pub sink: Sink,
    /// Processes killed so far, of the program or of Postgres.
    pub kills: usize,
    name: String,
    url: String,
    key: String,
    layout: Layout,
    replicas: Replicas,
    services: Vec<Option<Service>>,
    load: Option<Load>,
}

/// The result of a run.
#[derive(Debug)]
pub struct RunResult {
    /// Messages whose request returned 202.
    pub accepted: usize,
    /// Accepted messages that never arrived.
    pub lost: usize,
    /// Messages that arrived but are not in the database.
    pub phantom: usize,
    /// Duplicates: copies beyond the first of each message.
    pub copies: usize,
    /// Recipients that wait for an operator.
    pub held: usize,
    /// Whether the database satisfies the invariants.
    pub is_sound: bool,
}

impl Fleet {
    /// Starts the replicas and the load, on a database with this name.
    pub async fn start(postgres: OwnPostgres, name: &str, layout: Layout) -> Self {
        let url = postgres.database(name).await;
        let key = key(&url).await;
        let mut fleet = Self {
            postgres,
            sink: Sink::start().await,
            kills: 0,
            name: name.to_owned(),
            url,
            key,
            layout,
            replicas: Replicas::default(),
            services: (0..SIZE).map(|_| None).collect(),
            load: None,
        };
        fleet.start_missing().await;
        fleet.load = Some(Load::endless(&fleet.replicas));
        fleet
    }

    /// Starts the replicas that are not running.
    pub async fn start_missing(&mut self) {
        for number in 0..SIZE {
            if self.services[number].is_none() {
                let roles: &[&str] = match (self.layout, number) {
                    (Layout::Whole, _) => &[],
                    (Layout::Split, 2) => &["--only", "worker"],
                    (Layout::Split, _) => &["--only", "api"],
                };
                let mut command = serve(&self.url, self.sink.address, roles);
                command
                    .env("POSTRIDER_DELIVERY__LEASE", format!("{}s", LEASE.as_secs()))
                    .env("POSTRIDER_DELIVERY__RETRY_SCHEDULE", "1s")
                    .env("POSTRIDER_DATABASE__TIMEOUT", "4s")
                    .env("POSTRIDER_DATABASE__MAX_CONNECTIONS", "8");
                let service = Service::start(command).await;
                if let Some(address) = &service.address {
                    self.replicas.set(number, Api::new(address.clone(), &self.key));
                }
                self.services[number] = Some(service);
            }
        }
    }

    /// Removes a replica from the fleet and from the targets of the load, and returns it.
    pub fn take(&mut self, number: usize) -> Service {
        self.replicas.remove(number);
        self.services[number].take().expect("a running replica")
    }

    /// Returns a running replica.
    pub fn replica(&self, number: usize) -> &Service {
        self.services[number].as_ref().expect("a running replica")
    }

    /// Kills a replica with SIGKILL. The load still sends requests to it.
    pub async fn kill(&mut self, number: usize) {
        self.services[number].take().expect("a running replica").kill().await;
        self.kills += 1;
    }

    /// Opens a connection that bypasses the proxy.
    pub async fn connect(&self) -> PgConnection {
        self.postgres.connect(&self.name).await
    }

    /// Runs statements on a connection that bypasses the proxy.
    pub async fn sql(&self, statements: &str) {
        self.postgres.sql(&self.name, statements).await;
    }

    /// Returns the process ids of Postgres backends that serve Postrider, in random order.
    pub async fn backends(&self, at_most: i64) -> Vec<i32> {
        sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE usename = 'app' ORDER BY random() LIMIT $1")
            .bind(at_most)
            .fetch_all(&mut self.connect().await)
            .await
            .unwrap_or_default()
    }

    /// Kills a process of Postgres with SIGKILL.
    pub async fn signal(&mut self, pid: i32) {
        let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).output().await;
        self.kills += 1;
    }

    /// Waits until 20 more messages have been accepted, or until the time limit.
    pub async fn wait_for_progress(&mut self, at_most: Duration) {
        let load = self.load.as_mut().expect("load");
        let wanted = load.count() + 20;
        let _ = tokio::time::timeout(at_most, load.wait_for(wanted)).await;
    }

    /// Ends all faults, waits until all messages are sent, and returns the result.
    pub async fn end(mut self) -> (OwnPostgres, RunResult) {
        self.postgres.proxy.open();
        self.sink.start_again().await;
        self.sink.set_behavior(Behavior::Friendly);
        let accepted = self.load.take().expect("load").end().await;
        self.start_missing().await;
        self.drain().await;
        for service in self.services.drain(..).flatten() {
            service.terminate().await;
        }
        let mut connection = self.postgres.connect(&self.name).await;
        let counts = count(&mut connection, &accepted, &self.sink.take()).await;
        let is_sound = tokio::spawn(async move { invariants::check(&mut connection).await }).await.is_ok();
        (self.postgres, RunResult { is_sound, ..counts })
    }

    async fn drain(&self) {
        let started = Instant::now();
        let mut connection = self.connect().await;
        let waiting = "SELECT count(*) FROM queue WHERE due_at < 'infinity'";
        until("all messages are sent", 2 * DRAIN_TIMEOUT, async || {
            let count = sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut connection).await.unwrap();
            if count > 0 && started.elapsed() > DRAIN_TIMEOUT {
                // The result of the run counts them as lost.
                eprintln!("{}: {count} messages were not sent", self.name);
                return Ok(());
            }
            if count == 0 { Ok(()) } else { Err(format!("{count} wait")) }
        })
        .await;
        connection.close().await.expect("closed");
    }
}

/// Counts the messages, without a check of the invariants.
async fn count(
    connection: &mut PgConnection,
    accepted: &BTreeSet<String>,
    arrived: &HashMap<String, usize>,
) -> RunResult {
    let stored: Vec<String> =
        sqlx::query_scalar("SELECT subject FROM messages").fetch_all(&mut *connection).await.expect("subjects");
    let stored: HashSet<String> = stored.into_iter().collect();
    let held = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM queue WHERE held IS NOT NULL");
    RunResult {
        accepted: accepted.len(),
        lost: accepted.iter().filter(|subject| !arrived.contains_key(*subject)).count(),
        phantom: arrived.keys().filter(|subject| !stored.contains(*subject)).count(),
        copies: arrived.values().map(|copies| copies - 1).sum(),
        held: held.fetch_one(connection).await.expect("a count").try_into().expect("a count of at least 0"),
        is_sound: true,
    }
}
