//! Watches the database server while the service runs: follows its clock, keeps to this process's share of its
//! connections, and warns if commits do not wait for the disk or replicas are configured differently.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::fingerprints;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::pool::server::{self, Look};
use crate::db::pool::session::{self, SessionError};
use crate::db::{Db, DbError, Trouble};
use crate::domain::connection_share::Share;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Number of consecutive polls that must allow more connections before more are opened.
const GRANTS_TO_GROW: u32 = 3;
/// Number of free connections on the server with which the share is not reduced: a rolling restart briefly has one
/// replica more.
const ENOUGH_FREE: u32 = 10;
/// Interval of the comparison with other replicas.
const COMPARE_INTERVAL: Duration = Duration::from_mins(1);
/// Clock skew that is reported, and the change of skew after which it is reported again.
const SKEW: TimeDelta = TimeDelta::seconds(2);
/// How long a start waits for free database connections.
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);

/// The watch and its last findings.
#[derive(Debug)]
pub(super) struct ServerWatch {
    config: Config,
    clock: SharedClock,
    /// The pool that accepts messages and commits outcomes.
    api: Db,
    /// The worker's pool, if there is a worker.
    worker: Option<Db>,
    wanted: Share,
    share: Share,
    /// Number of consecutive polls that allow more than the current share.
    grants: u32,
    /// The skew last reported.
    reported_skew: TimeDelta,
    compared: Option<Instant>,
}

/// Waits up to [`CONNECT_PATIENCE`] until the server accepts a connection, and checks the settings of sessions.
pub(super) async fn ready(db: &Db) -> Result<(), SessionError> {
    let begun = Instant::now();
    loop {
        match session::check(db).await {
            Err(SessionError::Db(error))
                if error.trouble() == Some(Trouble::Full) && begun.elapsed() < CONNECT_PATIENCE =>
            {
                tracing::warn!(event = "connections_refused", %error, "database refuses connections; waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            checked => return checked,
        }
    }
}

impl ServerWatch {
    /// Polls the server for the first time. Afterwards the clock follows the database's.
    pub(super) async fn start(
        config: &Config,
        clock: SharedClock,
        api: Db,
        worker: Option<Db>,
    ) -> Result<Self, DbError> {
        let most = config.database.max_connections;
        let wanted = Share { api: most, worker: if worker.is_some() { most } else { 0 } };
        let mut watch = Self {
            config: config.clone(),
            clock,
            api,
            worker,
            wanted,
            share: wanted,
            grants: 0,
            reported_skew: TimeDelta::zero(),
            compared: None,
        };
        let look = server::look(&watch.api).await?;
        let fit = wanted.fit(look.connections.available, look.connections.processes);
        // A starting process uses at most its share, even if more connections are free.
        if fit != wanted && config.database.direct_url.is_none() {
            watch.warn_short(fit, &look);
            watch.set(fit);
        }
        watch.follow(&look);
        Ok(watch)
    }

    /// Polls the server forever.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            // Only the worker uses its pool, so requests cannot exhaust it.
            match server::look(self.worker.as_ref().unwrap_or(&self.api)).await {
                Ok(look) => self.follow(&look),
                Err(error) if error.trouble() == Some(Trouble::Full) => self.yield_connections(&error),
                Err(error) => tracing::debug!(%error, "failed to poll the database server"),
            }
            if self.compared.is_none_or(|at| at.elapsed() >= COMPARE_INTERVAL) {
                self.compared = Some(Instant::now());
                self.compare().await;
            }
        }
    }

    fn follow(&mut self, look: &Look) {
        if let Some(skew) = self.clock.follow(&look.reading) {
            self.report_skew(skew);
        }
        if !look.is_synchronous {
            tracing::error!(
                event = "synchronous_commit_off",
                "database does not keep session settings; connect to the server directly instead of through a pooler"
            );
        }
        // Behind a pooler, the server's connections belong to the pooler.
        if self.config.database.direct_url.is_none() {
            let fit = self.wanted.fit(look.connections.available, look.connections.processes);
            self.resize(fit, look);
        }
    }

    fn resize(&mut self, fit: Share, look: &Look) {
        self.grants = if fit.total() > self.share.total() { self.grants + 1 } else { 0 };
        let is_short = fit.total() < self.share.total() && look.connections.free < ENOUGH_FREE;
        if is_short {
            self.warn_short(fit, look);
            self.set(fit);
        } else if self.grants >= GRANTS_TO_GROW {
            tracing::info!(
                event = "connections_enough",
                allowed = fit.total(),
                "database has enough connections; using more again"
            );
            self.set(fit);
        }
    }

    fn warn_short(&self, fit: Share, look: &Look) {
        tracing::warn!(
            event = "connections_short",
            wanted = self.wanted.total(),
            allowed = fit.total(),
            available = look.connections.available,
            processes = look.connections.processes,
            "database server allows fewer connections than the replicas need; using a share; raise max_connections of \
             the server, or lower database.max_connections"
        );
    }

    /// Halves the API's pool when no connection was available even for the poll. Any process may use the freed
    /// connections, this process's worker included.
    fn yield_connections(&mut self, error: &DbError) {
        tracing::warn!(event = "connections_refused", %error, "database refuses more connections; using fewer");
        self.grants = 0;
        self.set(Share { api: (self.share.api / 2).max(2), ..self.share });
    }

    fn set(&mut self, share: Share) {
        self.share = share;
        self.api.resize(share.api);
        if let Some(worker) = &self.worker {
            worker.resize(share.worker);
        }
    }

    fn report_skew(&mut self, skew: TimeDelta) {
        if (skew - self.reported_skew).abs() < SKEW {
            return;
        }
        self.reported_skew = skew;
        if skew.abs() < SKEW {
            tracing::info!(event = "clock_skew_over", "machine's clock agrees with the database's again");
        } else {
            tracing::warn!(
                event = "clock_skew",
                skew_seconds = skew.num_seconds(),
                "machine's clock differs from the database's; using the database's; check time synchronisation"
            );
        }
    }

    async fn compare(&self) {
        match fingerprints::differing(&self.config, self.worker.as_ref().unwrap_or(&self.api)).await {
            Ok(differing) => {
                for fingerprints::Differing { worker, settings } in differing {
                    tracing::warn!(
                        event = "settings_differ",
                        worker = %worker.id,
                        host = worker.host,
                        pid = worker.pid,
                        settings = settings.join(", "),
                        "another replica is configured differently; give all replicas the same settings"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "failed to compare the settings of replicas"),
        }
    }
}
