//! The restore guard: keeps a restored, rolled-back or copied database from sending again what was sent already.
//!
//! Once a second, and before the first message, it compares the database with the newest state that this process has seen, or
//! that an earlier process on this machine has remembered in a file, and makes a mark in the database. If the database is
//! older, or is somewhere else, all processes hold: they accept messages, but claim nothing, hand off nothing and post nothing
//! to webhooks, until an operator runs `postrider release`. The decision is in `domain/installation/restore.rs`; `db/pool/restore_gate.rs`
//! asks for a check when a connection leads to another server.

pub(super) mod state_file;

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use tokio::sync::Notify;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::installation;
use crate::db::{Db, DbError, RestoreGate, ServerRun};
use crate::domain::installation::restore::{Finding, HOLD_FIX, Hold, Mark, Observation, Rules, decide};
use crate::metrics::METRICS;
use crate::telemetry::RateLimitedLog;
use state_file::StateFiles;

/// Interval of the checks.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of the checks until one decides whether this process may send.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Interval of writing the memory to its file.
const FILE_INTERVAL: Duration = Duration::from_secs(2);
/// Sending stops after this time without a decision.
const SUSPEND_AFTER: Duration = Duration::from_secs(10);
/// How long checks may be undecided before this is reported.
const REPORT_AFTER: Duration = Duration::from_secs(5);
/// How long the first check is retried.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Time limit for reading or writing the state file.
const FILE_LIMIT: Duration = Duration::from_secs(30);

/// The guard of one process.
#[derive(Debug)]
pub(in crate::app) struct RestoreGuard {
    config: Config,
    db: Db,
    clock: SharedClock,
    gate: Arc<RestoreGate>,
    /// Notified when the gate opens.
    wake: Arc<Notify>,
    /// The newest mark that this process has seen.
    memory: Option<Mark>,
    files: Option<StateFiles>,
    written_at: Option<Instant>,
    /// Writes the memory: the file system may be slow, and no check waits for it.
    writing: Option<JoinHandle<io::Result<()>>>,
    failed: RateLimitedLog,
    undecided: RateLimitedLog,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checked {
    /// The check decided whether this process may send.
    Decided,
    /// The check could not decide, for this reason.
    Undecided(&'static str),
}

/// Creates the gate of a process that runs the service. It opens with the guard's first check.
pub(in crate::app) fn gate(config: &Config) -> Arc<RestoreGate> {
    Arc::new(if config.restore_guard.enabled { RestoreGate::default() } else { RestoreGate::always_open() })
}

fn rules(config: &Config) -> Rules<'_> {
    Rules { name: config.restore_guard.installation.as_deref(), max_silence: config.restore_guard.max_silence }
}

/// What a command finds: what the database says, and the decision of a process that would start now on this machine.
#[derive(Debug)]
pub struct Inspection {
    /// What the database says.
    pub observed: Observation,
    /// The decision.
    pub finding: Finding,
}

impl Inspection {
    /// Returns the hold, if there is one.
    pub fn hold(&self) -> Option<&Hold> {
        match &self.finding {
            Finding::Holds(hold) => Some(hold),
            Finding::Sends | Finding::Standby => None,
        }
    }
}

/// Inspects the database for a command. Changes nothing.
pub async fn inspect(config: &Config, db: &Db) -> Result<Inspection, DbError> {
    let observed = installation::observe(db).await?;
    let files = StateFiles::open(&config.restore_guard.state);
    let memory = files.zip(observed.installation).and_then(|(files, id)| files.read(id).ok().flatten());
    let finding =
        if config.restore_guard.enabled { decide(&observed, memory.as_ref(), rules(config)) } else { Finding::Sends };
    Ok(Inspection { observed, finding })
}

impl RestoreGuard {
    /// Checks the database for the first time, again for a while if this fails. Returns `None` if the guard is switched off.
    pub(in crate::app) async fn start(
        config: &Config,
        db: Db,
        clock: SharedClock,
        gate: Arc<RestoreGate>,
        wake: Arc<Notify>,
    ) -> Result<Option<Self>, DbError> {
        if !config.restore_guard.enabled {
            return Ok(None);
        }
        let mut guard = Self {
            config: config.clone(),
            db,
            clock,
            gate,
            wake,
            memory: None,
            files: StateFiles::open(&config.restore_guard.state),
            written_at: None,
            writing: None,
            failed: RateLimitedLog::default(),
            undecided: RateLimitedLog::default(),
        };
        let deadline = Instant::now() + START_LIMIT;
        guard.warn_without_state();
        while let Err(error) = guard.begin().await {
            if Instant::now() >= deadline {
                return Err(error);
            }
            tracing::debug!(%error, "failed to check whether the database was restored; trying again");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Ok(Some(guard))
    }

    async fn begin(&mut self) -> Result<(), DbError> {
        self.read_memory().await?;
        self.check().await.map(drop)
    }

    /// Checks forever.
    pub(in crate::app) async fn run(mut self) {
        let mut pause = CHECK_INTERVAL;
        let mut decided_at = Instant::now();
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.gate.recheck_requested() => {}
            }
            let result = self.check_or_suspend(decided_at).await;
            if matches!(result, Ok(Checked::Decided)) {
                decided_at = Instant::now();
            } else if decided_at.elapsed() >= SUSPEND_AFTER {
                self.gate.suspend();
            }
            // Messages wait for a check that has not decided yet.
            let is_undecided = !self.gate.is_open() && self.gate.hold().is_none();
            pause = if is_undecided { RETRY_PAUSE } else { CHECK_INTERVAL };
            if is_undecided && decided_at.elapsed() >= REPORT_AFTER {
                self.report_undecided(decided_at, &result);
            }
        }
    }

    /// Checks, and lets nothing more be sent while the check waits for too long, or if the database refuses it.
    async fn check_or_suspend(&mut self, decided_at: Instant) -> Result<Checked, DbError> {
        let gate = self.gate.clone();
        let result = {
            let mut check = std::pin::pin!(self.check());
            tokio::select! {
                result = &mut check => result,
                () = tokio::time::sleep(SUSPEND_AFTER.saturating_sub(decided_at.elapsed())) => {
                    gate.suspend();
                    check.await
                }
            }
        };
        if let Err(error) = &result {
            if !error.is_temporary() {
                gate.suspend();
            }
            tracing::debug!(%error, "failed to check whether the database was restored; trying again");
        }
        result
    }

    fn report_undecided(&self, decided_at: Instant, result: &Result<Checked, DbError>) {
        let reason = match result {
            Ok(Checked::Decided) => return,
            Ok(Checked::Undecided(reason)) => (*reason).to_owned(),
            Err(error) => error.to_string(),
        };
        let silence = TimeDelta::from_std(decided_at.elapsed()).unwrap_or(TimeDelta::MAX);
        self.gate.note_undecided(self.clock.now() - silence, &reason);
        METRICS.restore_guard_holding.set(1.0);
        if let Some(times) = self.undecided.note(tokio::time::Instant::now()) {
            tracing::warn!(
                event = "restore_guard_undecided",
                reason,
                times,
                "cannot check whether the database was restored: accepting messages, but sending nothing until a check succeeds"
            );
        }
    }

    fn warn_without_state(&self) {
        if self.files.is_none() {
            tracing::info!(
                event = "restore_guard_without_state",
                directory = %self.config.restore_guard.state.display(),
                "there is no directory for the state of the restore guard: after a restart of all processes, it notices a \
                 rolled-back database only if it is on another server or was unused for restore_guard.max_silence"
            );
        }
    }

    async fn read_memory(&mut self) -> Result<(), DbError> {
        let Some(files) = self.files.clone() else { return Ok(()) };
        let Some(installation) = installation::observe(&self.db).await?.installation else { return Ok(()) };
        let reading = tokio::task::spawn_blocking(move || files.read(installation));
        let read = match tokio::time::timeout(FILE_LIMIT, reading).await {
            Ok(Ok(read)) => read,
            Ok(Err(error)) => Err(io::Error::other(error)),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        match read {
            Ok(memory) => self.memory = memory,
            Err(error) => tracing::warn!(
                event = "restore_guard_state_failed",
                directory = %self.config.restore_guard.state.display(),
                %error,
                "failed to read the state of the restore guard; starting without it, so a rollback may not be detected; check the directory's permissions"
            ),
        }
        Ok(())
    }

    async fn check(&mut self) -> Result<Checked, DbError> {
        let check = self.gate.begin_check();
        let mut observed = installation::observe(&self.db).await?;
        let server = ServerRun {
            system_identifier: observed.place.system_identifier,
            timeline: observed.timeline,
            started_at: observed.started_at,
        };
        if !self.gate.is_checked(server) && self.memory.is_some_and(|memory| memory.epoch == observed.epoch) {
            // The marks are a second apart; what this process has committed since the last one must be there, too.
            observed.is_commit_lost = installation::lacks_any(&self.db, &self.gate.witnesses()).await?;
        }
        match decide(&observed, self.memory.as_ref(), rules(&self.config)) {
            Finding::Sends if observed.hold.is_some() => {
                // A mark of this process shows that the database is the newest state; the next check opens the gate.
                installation::end_stale(&self.db, &observed).await?;
            }
            Finding::Sends => {
                let name = self.config.restore_guard.installation.as_deref();
                let begins_branch = observed.branch.is_none()
                    || self.memory.is_none_or(|memory| observed.installation != Some(memory.installation));
                let Some(mark) = installation::mark(&self.db, &observed, name, begins_branch).await? else {
                    // Nothing new is known, and the next check decides.
                    return Ok(Checked::Undecided("the database or its server changed during the check"));
                };
                let was_open = self.gate.is_open();
                if self.gate.open(check, server) {
                    tracing::warn!(event = "restore_guard_released", "the restore guard was released; sending again");
                }
                METRICS.restore_guard_holding.set(0.0);
                if !was_open {
                    self.wake.notify_one();
                }
                self.remember(mark);
            }
            Finding::Standby => {
                self.gate.suspend();
                return Ok(Checked::Undecided("the server is a standby"));
            }
            Finding::Holds(mut hold) => {
                // Since the first check that found it, also if it could not be recorded then.
                if observed.hold.is_none()
                    && let Some(known) = self.gate.hold().filter(|known| known.reason == hold.reason)
                {
                    hold.since = known.since;
                }
                // First: recording it may fail, or wait for a long transaction.
                self.note_hold(&hold);
                if hold.reason.is_shared() && observed.hold.is_none() {
                    installation::hold(&self.db, &observed, &hold).await?;
                }
            }
        }
        Ok(Checked::Decided)
    }

    fn note_hold(&self, hold: &Hold) {
        METRICS.restore_guard_holding.set(1.0);
        // A process that starts during a hold reports it too.
        if self.gate.close(hold.clone()) {
            tracing::error!(
                event = "restore_guard_holds",
                reason = hold.reason.as_str(),
                detail = hold.detail,
                since = %hold.since,
                hint = HOLD_FIX,
                "the database may be an older state or a copy: accepting messages, but sending nothing until it is released"
            );
        }
    }

    /// Remembers the newest mark, and writes it to its file every few seconds, unless the file system is still busy with an earlier
    /// one.
    fn remember(&mut self, mark: Mark) {
        let is_newer =
            self.memory.is_none_or(|known| known.epoch < mark.epoch || known.installation != mark.installation);
        if is_newer || self.memory.is_some_and(|known| known.number < mark.number) {
            self.memory = Some(mark);
        }
        let is_due = is_newer || self.written_at.is_none_or(|at| at.elapsed() >= FILE_INTERVAL);
        let is_busy = self.writing.as_ref().is_some_and(|writing| !writing.is_finished());
        if is_busy && self.written_at.is_some_and(|at| at.elapsed() >= FILE_LIMIT) {
            self.note_written(Err(io::ErrorKind::TimedOut.into()));
        }
        let Some(files) = self.files.clone().filter(|_| is_due && !is_busy) else { return };
        if let Some(writing) = self.writing.take() {
            self.note_written(
                writing
                    .join()
                    .unwrap_or_else(|_| Err(io::Error::other("the thread that writes the state file panicked"))),
            );
        }
        self.written_at = Some(Instant::now());
        // A separate thread, because the runtime would wait for a blocking task at shutdown.
        let thread = std::thread::Builder::new().name("restore-guard-state".into());
        match thread.spawn(move || files.write(&mark)) {
            Ok(writing) => self.writing = Some(writing),
            Err(error) => self.note_written(Err(error)),
        }
    }

    fn note_written(&self, written: io::Result<()>) {
        if let Err(error) = written
            && let Some(times) = self.failed.note(tokio::time::Instant::now())
        {
            tracing::warn!(
                event = "restore_guard_state_failed",
                directory = %self.config.restore_guard.state.display(),
                %error,
                times,
                "failed to write the state of the restore guard; a rollback after the next restart may not be noticed"
            );
        }
    }
}
