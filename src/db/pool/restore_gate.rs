//! The gate of the restore guard: whether this process may send. Sending reads one atomic; the guard
//! (`app/database/restore_guard.rs`) sets it.
//!
//! Every new connection reports which server it reached. If that is not the server that the guard has checked, or it was
//! restarted since, the gate closes before the connection is used, until the guard has compared the database with what this
//! process remembers. So nothing is claimed on a promoted standby that lost its last transactions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::{Mutex, RwLock};
use sqlx::PgConnection;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::domain::installation::restore::Hold;

/// Identifies a run of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerRun {
    /// Its system identifier, if the server reports it.
    pub system_identifier: Option<i64>,
    /// Its timeline, if the server reports it.
    pub timeline: Option<i32>,
    /// When it was started.
    pub started_at: DateTime<Utc>,
}

/// An event that a transaction of this process has committed. If a promoted server lacks it, the transaction is lost.
#[derive(Debug, Clone, Copy)]
pub struct Witness {
    /// The tenant.
    pub tenant: Uuid,
    /// The message of the event.
    pub message: Uuid,
    /// The recipient, if the event is about one.
    pub recipient: Option<Uuid>,
    /// The number of the attempt that it records, if it records one.
    pub attempt: Option<i16>,
}

/// Number of commits that are remembered. Two or three run at a time, and only their order in the WAL is unknown.
const WITNESSES: usize = 8;
/// How long a commit is remembered: the marks of the guard cover older ones.
const WITNESS_TTL: Duration = Duration::from_mins(10);

/// Whether this process may send.
#[derive(Debug, Default)]
pub struct RestoreGate {
    is_open: AtomicBool,
    state: RwLock<State>,
    recheck: Notify,
    /// The last commits of this process.
    witnesses: Mutex<VecDeque<(Instant, Witness)>>,
}

#[derive(Debug, Default)]
struct State {
    /// The server that was checked last; `None` before the first check, and if nothing is guarded.
    checked: Option<ServerRun>,
    /// Number of connections to other servers so far.
    changes: u64,
    hold: Option<Hold>,
    undecided: Option<Undecided>,
}

/// Checks that have not decided for some time whether this process may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undecided {
    /// Since when.
    pub since: DateTime<Utc>,
    /// Why, as a clause.
    pub reason: String,
}

/// A check that has begun. It opens the gate only if no connection led to another server meanwhile.
#[derive(Debug, Clone, Copy)]
pub struct BegunCheck {
    changes: u64,
}

impl RestoreGate {
    /// Creates a gate that stays open: for commands, and if the guard is switched off.
    pub fn always_open() -> Self {
        Self { is_open: AtomicBool::new(true), ..Self::default() }
    }

    /// Returns whether this process may send.
    pub fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Acquire)
    }

    /// Returns the hold, if the guard holds. During a check, nothing is sent either, but there is no hold.
    pub fn hold(&self) -> Option<Hold> {
        self.state.read().hold.clone()
    }

    /// Returns since when nothing is sent: because the guard holds, or because no check has decided for some time.
    pub fn blocked_since(&self) -> Option<DateTime<Utc>> {
        let state = self.state.read();
        let held = state.hold.as_ref().map(|hold| hold.since);
        held.or_else(|| state.undecided.as_ref().map(|undecided| undecided.since))
    }

    /// Returns why nothing is sent, in sentences.
    pub fn problem(&self) -> Option<String> {
        let state = self.state.read();
        let undecided = |Undecided { since, reason }: &Undecided| {
            let since = since.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!(
                "Nothing has been sent since {since}, because the restore guard cannot check the database: {reason}. Sending resumes after the next successful check."
            )
        };
        state.hold.as_ref().map(Hold::text).or_else(|| state.undecided.as_ref().map(undecided))
    }

    /// Notes that checks have not decided for some time.
    pub fn note_undecided(&self, since: DateTime<Utc>, reason: &str) {
        let mut state = self.state.write();
        if !self.is_open() && state.hold.is_none() {
            let since = state.undecided.as_ref().map_or(since, |known| known.since);
            state.undecided = Some(Undecided { since, reason: reason.to_owned() });
        }
    }

    /// Begins a check of the database.
    pub fn begin_check(&self) -> BegunCheck {
        BegunCheck { changes: self.state.read().changes }
    }

    /// Opens the gate: the database on this server may be sent from. Returns whether the guard held before.
    pub fn open(&self, check: BegunCheck, server: ServerRun) -> bool {
        let mut state = self.state.write();
        state.checked = Some(server);
        state.undecided = None;
        // Otherwise the next check decides, which was requested already.
        if state.changes == check.changes {
            self.is_open.store(true, Ordering::Release);
        }
        let was_held = state.hold.take().is_some();
        if was_held {
            // Commits before the release may be lost.
            self.witnesses.lock().clear();
        }
        was_held
    }

    /// Returns whether this is the run of the server that was checked last.
    pub fn is_checked(&self, server: ServerRun) -> bool {
        self.state.read().checked.is_none_or(|checked| checked == server)
    }

    /// Remembers a commit of this process.
    pub fn note_commit(&self, witness: Witness) {
        let mut witnesses = self.witnesses.lock();
        if witnesses.len() >= WITNESSES {
            witnesses.pop_front();
        }
        witnesses.push_back((Instant::now(), witness));
    }

    /// Returns the last commits of this process.
    pub fn witnesses(&self) -> Vec<Witness> {
        let recent = |(at, witness): &(Instant, Witness)| (at.elapsed() < WITNESS_TTL).then_some(*witness);
        self.witnesses.lock().iter().filter_map(recent).collect()
    }

    /// Closes the gate until an operator decides. Returns whether this hold is new.
    pub fn close(&self, hold: Hold) -> bool {
        let mut state = self.state.write();
        self.is_open.store(false, Ordering::Release);
        let is_news = state.hold.as_ref().is_none_or(|known| known.reason != hold.reason);
        state.hold = Some(hold);
        state.undecided = None;
        is_news
    }

    /// Closes the gate until the next check.
    pub fn suspend(&self) {
        let _state = self.state.write();
        self.is_open.store(false, Ordering::Release);
    }

    /// Waits until a new connection requires a check.
    pub async fn recheck_requested(&self) {
        self.recheck.notified().await;
    }

    /// Requires a check if a connection leads to another server than the one that was checked, or if this is unknown.
    fn note_connection(&self, server: Option<ServerRun>) {
        let mut state = self.state.write();
        if state.checked.is_some() && state.checked != server {
            state.changes += 1;
            self.is_open.store(false, Ordering::Release);
            drop(state);
            self.recheck.notify_one();
        }
    }

    fn is_armed(&self) -> bool {
        self.state.read().checked.is_some()
    }
}

/// Checks each new connection of these pools.
pub(in crate::db) fn guarded(options: PgPoolOptions, gate: Arc<RestoreGate>) -> PgPoolOptions {
    options.after_connect(move |connection, _| {
        let gate = gate.clone();
        Box::pin(async move {
            if gate.is_armed() {
                gate.note_connection(server_run(connection).await.ok());
            }
            Ok(())
        })
    })
}

async fn server_run(connection: &mut PgConnection) -> Result<ServerRun, sqlx::Error> {
    sqlx::query_as!(
        ServerRun,
        r#"SELECT system_identifier, timeline, pg_postmaster_start_time() AS "started_at!" FROM server_position()"#
    )
    .fetch_one(connection)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::installation::restore::HoldReason;

    const SERVER: ServerRun =
        ServerRun { system_identifier: Some(7), timeline: Some(1), started_at: DateTime::UNIX_EPOCH };

    #[tokio::test]
    async fn connection_to_another_server_closes_the_gate() {
        let gate = RestoreGate::default();
        assert!(!gate.is_open(), "nothing was checked yet");
        gate.open(gate.begin_check(), SERVER);
        gate.note_connection(Some(SERVER));
        assert!(gate.is_open());
        for other in [Some(ServerRun { timeline: Some(2), ..SERVER }), None] {
            gate.open(gate.begin_check(), SERVER);
            let check = gate.begin_check();
            gate.note_connection(other);
            assert!(!gate.is_open() && gate.hold().is_none());
            gate.recheck_requested().await;
            gate.open(check, SERVER);
            assert!(!gate.is_open(), "a check that began before the connection");
        }
    }

    #[test]
    fn hold_ends_when_the_gate_opens() {
        let gate = RestoreGate::default();
        let hold = Hold { reason: HoldReason::Moved, since: DateTime::UNIX_EPOCH, detail: "It was moved.".into() };
        assert!(gate.close(hold.clone()) && !gate.close(hold.clone()));
        assert_eq!((gate.is_open(), gate.hold()), (false, Some(hold)));
        assert!(gate.open(gate.begin_check(), SERVER) && gate.hold().is_none() && gate.is_open());
        gate.note_undecided(DateTime::UNIX_EPOCH, "the server is a standby");
        assert_eq!((gate.problem(), gate.blocked_since()), (None, None), "it is open");
        gate.suspend();
        gate.note_undecided(DateTime::UNIX_EPOCH, "the server is a standby");
        assert!(
            gate.problem()
                .is_some_and(|text| text.contains("since 1970-01-01T00:00:00Z") && text.contains("a standby"))
        );
        gate.open(gate.begin_check(), SERVER);
        assert_eq!(gate.blocked_since(), None);
        let unguarded = RestoreGate::always_open();
        unguarded.note_connection(None);
        assert!(unguarded.is_open());
    }
}
