//! Watches the database server while the service runs: follows its clock, uses only this process's share of its
//! connections, and warns if commits do not wait for the disk or replicas are configured differently.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::{connections, fingerprints};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::pool::server::{self, ServerState};
use crate::db::{Db, DbError, Trouble};
use crate::domain::limits::connection_share::Share;

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Number of consecutive polls that must allow more connections before more are opened.
const POLLS_TO_GROW: u32 = 3;
/// The share is not reduced while the server has at least this many free connections: a rolling restart briefly runs
/// one more replica.
const ENOUGH_FREE: u32 = 10;
/// Interval of the comparison with other replicas.
const COMPARE_INTERVAL: Duration = Duration::from_mins(1);
/// Minimum clock skew that is reported, and minimum change of the skew that is reported again.
const SKEW: TimeDelta = TimeDelta::seconds(2);

/// The watch and the results of its last poll.
#[derive(Debug)]
pub(in crate::app) struct ServerWatch {
    config: Config,
    clock: SharedClock,
    /// The pool that accepts messages and commits outcomes.
    api: Db,
    /// The worker's pool, if there is a worker.
    worker: Option<Db>,
    wanted: Share,
    share: Share,
    /// Number of consecutive polls that allow more than the current share.
    polls_above_share: u32,
    /// The skew last reported.
    reported_skew: TimeDelta,
    compared_at: Option<Instant>,
}

impl ServerWatch {
    /// Polls the server for the first time. From then on, the clock follows the database's clock.
    pub(in crate::app) async fn start(
        config: &Config,
        clock: SharedClock,
        api: Db,
        worker: Option<Db>,
    ) -> Result<Self, DbError> {
        let maximum = config.database.max_connections;
        let wanted = Share { api: maximum, worker: if worker.is_some() { maximum } else { 0 } };
        let mut watch = Self {
            config: config.clone(),
            clock,
            api,
            worker,
            wanted,
            share: wanted,
            polls_above_share: 0,
            reported_skew: TimeDelta::zero(),
            compared_at: None,
        };
        let state = server::state(&watch.api).await?;
        let fit = wanted.fit(state.connections.available, state.connections.processes);
        // A starting process uses at most its share, even if more connections are free.
        if config.database.direct_url.is_some() {
            watch.warn_if_direct_short(&state);
        } else if fit != wanted {
            watch.warn_short(fit, &state);
            watch.set_share(fit);
        }
        watch.follow(&state);
        Ok(watch)
    }

    /// Polls the server forever.
    pub(in crate::app) async fn run(mut self) {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            // Only the worker uses its pool, so requests cannot exhaust it.
            match server::state(self.worker.as_ref().unwrap_or(&self.api)).await {
                Ok(state) => self.follow(&state),
                Err(error) if error.trouble() == Some(Trouble::Full) => self.yield_connections(&error),
                Err(error) => tracing::debug!(%error, "failed to poll the database server"),
            }
            if self.compared_at.is_none_or(|at| at.elapsed() >= COMPARE_INTERVAL) {
                self.compared_at = Some(Instant::now());
                self.compare().await;
            }
        }
    }

    fn follow(&mut self, state: &ServerState) {
        if let Some(skew) = self.clock.follow(&state.reading) {
            self.report_skew(skew);
        }
        if !state.is_synchronous {
            tracing::error!(
                event = "synchronous_commit_off",
                "database does not keep session settings; connect to the server directly instead of through a pooler"
            );
        }
        // Behind a pooler, the server's connections belong to the pooler.
        if self.config.database.direct_url.is_none() {
            let fit = self.wanted.fit(state.connections.available, state.connections.processes);
            self.resize(fit, state);
        }
    }

    fn resize(&mut self, fit: Share, state: &ServerState) {
        self.polls_above_share = if fit.total() > self.share.total() { self.polls_above_share + 1 } else { 0 };
        let is_short = fit.total() < self.share.total() && state.connections.free < ENOUGH_FREE;
        if is_short {
            self.warn_short(fit, state);
            self.set_share(fit);
        } else if self.polls_above_share >= POLLS_TO_GROW {
            tracing::info!(
                event = "connections_enough",
                allowed = fit.total(),
                "database has enough connections; using more again"
            );
            self.set_share(fit);
        }
    }

    fn warn_short(&self, fit: Share, state: &ServerState) {
        tracing::warn!(
            event = "connections_short",
            wanted = self.wanted.total(),
            allowed = fit.total(),
            available = state.connections.available,
            processes = state.connections.processes,
            "database server allows fewer connections than the replicas need; using a share; raise max_connections of \
             the server, or lower database.max_connections"
        );
    }

    /// Warns if the server allows fewer connections beside those of the pooler than the replicas may open.
    fn warn_if_direct_short(&self, state: &ServerState) {
        let wanted = connections::direct(&self.config, self.worker.is_some());
        if wanted.fit(state.connections.available, state.connections.processes) != wanted {
            tracing::warn!(
                event = "direct_connections_short",
                wanted = wanted.total(),
                available = state.connections.available,
                processes = state.connections.processes,
                "database server allows fewer direct connections than the replicas need; opening them anyway, so some may be refused; raise max_connections of the \
                 server, or lower the pooler's pool size"
            );
        }
    }

    /// Halves the API's pool when no connection was available even for the poll. Any process may use the freed
    /// connections, this process's worker included.
    fn yield_connections(&mut self, error: &DbError) {
        tracing::warn!(event = "connections_refused", %error, "database refuses more connections; using fewer");
        self.polls_above_share = 0;
        self.set_share(Share { api: (self.share.api / 2).max(2), ..self.share });
    }

    fn set_share(&mut self, share: Share) {
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
                for fingerprints::DifferingWorker { worker, settings } in differing {
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
