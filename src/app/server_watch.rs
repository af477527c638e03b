//! Watches the database server while the service runs: follows its clock, keeps to this process's part of its connections,
//! and warns where commits do not wait for the disk or replicas are configured differently.

use std::time::{Duration, Instant};

use chrono::TimeDelta;

use super::fingerprints;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::pool::server::{self, Look};
use crate::db::pool::session::{self, SessionError};
use crate::db::{Db, DbError, Trouble};
use crate::domain::connection_share::Share;

/// Between two looks at the server.
const EVERY: Duration = Duration::from_secs(5);
/// Looks in a row that must grant more connections before more are opened.
const PATIENCE: u32 = 3;
/// With so many connections free on the server nobody uses fewer for the others' sake: a restart in turn has one replica too many
/// for a moment.
const PLENTY: u32 = 10;
/// Between two comparisons with the other replicas.
const COMPARE_EVERY: Duration = Duration::from_mins(1);
/// How far the machine's clock may be off before it is said, and after how much more it is said again.
const SKEW: TimeDelta = TimeDelta::seconds(2);
/// For how long a start waits for others to leave some connections.
const ROOM: Duration = Duration::from_secs(30);

/// What is watched, and what was found so far.
#[derive(Debug)]
pub(super) struct ServerWatch {
    config: Config,
    clock: SharedClock,
    /// Accepts mail and commits outcomes.
    api: Db,
    /// The worker's, where there is one.
    worker: Option<Db>,
    wanted: Share,
    share: Share,
    /// Looks in a row that grant more than the present share.
    grants: u32,
    /// The last skew that was said.
    said_skew: TimeDelta,
    compared: Option<Instant>,
}

/// Waits until the server has room for us, at most for a while, and makes sure that connections are what they must be.
pub(super) async fn ready(db: &Db) -> Result<(), SessionError> {
    let begun = Instant::now();
    loop {
        match session::check(db).await {
            Err(SessionError::Db(error)) if error.trouble() == Some(Trouble::Full) && begun.elapsed() < ROOM => {
                tracing::warn!(event = "connections_refused", %error, "waiting for the database to take connections");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            checked => return checked,
        }
    }
}

impl ServerWatch {
    /// Looks for the first time: afterwards the clock is the database's.
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
            said_skew: TimeDelta::zero(),
            compared: None,
        };
        let look = server::look(&watch.api).await?;
        let fit = wanted.fit(look.connections.available, look.connections.processes);
        // One that starts takes no more than its part, whatever is free.
        if fit != wanted && config.database.direct_url.is_none() {
            watch.tell_short(fit, &look);
            watch.set(fit);
        }
        watch.follow(&look);
        Ok(watch)
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(EVERY).await;
            // The worker's part is the one that nobody else uses up.
            match server::look(self.worker.as_ref().unwrap_or(&self.api)).await {
                Ok(look) => self.follow(&look),
                Err(error) if error.trouble() == Some(Trouble::Full) => self.give_way(&error),
                Err(error) => tracing::debug!(%error, "could not look at the database server"),
            }
            if self.compared.is_none_or(|at| at.elapsed() >= COMPARE_EVERY) {
                self.compared = Some(Instant::now());
                self.compare().await;
            }
        }
    }

    fn follow(&mut self, look: &Look) {
        if let Some(skew) = self.clock.follow(&look.reading) {
            self.tell_skew(skew);
        }
        if !look.is_synchronous {
            tracing::error!(
                event = "synchronous_commit_off",
                "the database does not keep the settings of our sessions; connect to the server itself"
            );
        }
        // Behind a pooler the server's connections are not ours to count.
        if self.config.database.direct_url.is_none() {
            let fit = self.wanted.fit(look.connections.available, look.connections.processes);
            self.resize(fit, look);
        }
    }

    fn resize(&mut self, fit: Share, look: &Look) {
        self.grants = if fit.total() > self.share.total() { self.grants + 1 } else { 0 };
        let is_short = fit.total() < self.share.total() && look.connections.free < PLENTY;
        if is_short {
            self.tell_short(fit, look);
            self.set(fit);
        } else if self.grants >= PATIENCE {
            tracing::info!(
                event = "connections_enough",
                allowed = fit.total(),
                "using more database connections again"
            );
            self.set(fit);
        }
    }

    fn tell_short(&self, fit: Share, look: &Look) {
        tracing::warn!(
            event = "connections_short",
            wanted = self.wanted.total(),
            allowed = fit.total(),
            available = look.connections.available,
            processes = look.connections.processes,
            "the database server allows fewer connections than its replicas want: raise max_connections of the server, or lower \
             database.max_connections; until then each replica uses its part"
        );
    }

    /// No connection was to be had even for this look: the API gives half of its own to whoever comes first, which may be the
    /// worker.
    fn give_way(&mut self, error: &DbError) {
        tracing::warn!(event = "connections_refused", %error, "the database takes no more connections; using fewer");
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

    fn tell_skew(&mut self, skew: TimeDelta) {
        if (skew - self.said_skew).abs() < SKEW {
            return;
        }
        self.said_skew = skew;
        if skew.abs() < SKEW {
            tracing::info!(event = "clock_skew_over", "the machine's clock agrees with the database's again");
        } else {
            tracing::warn!(
                event = "clock_skew",
                skew_seconds = skew.num_seconds(),
                "the machine's clock differs from the database's, which is the one that counts; check time synchronisation"
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
            Err(error) => tracing::debug!(%error, "could not compare the settings of replicas"),
        }
    }
}
