//! The restore guard's decision: whether this database is the one that the service last used, or an older or copied state of
//! it, from which messages would be sent a second time. Pure: the caller passes what the database and the memory say.
//!
//! No single sign shows every case:
//!
//! | case | server | timeline | mark and WAL position |
//! |---|---|---|---|
//! | restart, crash | same | same | not lower |
//! | synchronous standby promoted | same | next | switched after the last mark |
//! | asynchronous standby promoted, point-in-time recovery | same | next | switched before the last mark |
//! | volume rolled back | same | same | lower, or of another branch |
//! | dump restored | other server, database or table | | |
//! | copy beside the original | same | same or next | same at first: only the name tells |

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Event numbers that are skipped when the guard begins to hold: more than were ever used after the state that was restored.
/// Event numbers stay below 2^53, which every JSON reader can represent, for 900,000 restores.
pub const SKIPPED_EVENT_NUMBERS: i64 = 10_000_000_000;

/// Why nothing is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldReason {
    /// The data is on another server, or in another database or table, than before: a dump was restored.
    Moved,
    /// The database is older than a state that a process has seen.
    RolledBack,
    /// The server was promoted without the last transactions.
    LostTail,
    /// No process has used the database for some time, and none has stopped properly: it looks like a restored backup.
    Stale,
    /// The configuration names another installation: the database was copied.
    OtherInstallation,
}

impl HoldReason {
    const ALL: [Self; 5] = [Self::Moved, Self::RolledBack, Self::LostTail, Self::Stale, Self::OtherInstallation];

    /// Returns the name in the database, in the log and in the output of commands.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::RolledBack => "rolled_back",
            Self::LostTail => "lost_tail",
            Self::Stale => "stale",
            Self::OtherInstallation => "other_installation",
        }
    }

    /// Returns the reason with this name.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// Returns whether all processes hold, and not only those with the same configuration. A process with the wrong name
    /// in its configuration must not stop the others.
    pub fn is_shared(self) -> bool {
        self != Self::OtherInstallation
    }
}

/// A hold: nothing is sent until an operator runs `postrider release`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hold {
    /// Why.
    pub reason: HoldReason,
    /// Since when.
    pub since: DateTime<Utc>,
    /// What was found, as a sentence.
    pub detail: String,
}

/// What an operator can do about a hold.
pub const HOLD_FIX: &str = "run `postrider release`, which shows what waits and the choices";

impl Hold {
    /// Describes the hold in sentences that end with the fix.
    pub fn text(&self) -> String {
        let since = time(self.since);
        format!("The restore guard has held since {since}, and nothing is sent. {} To end it, {HOLD_FIX}.", self.detail)
    }
}

/// Where the data of an installation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The server's system identifier; `None` if the server does not report it.
    pub system_identifier: Option<i64>,
    /// The database's oid.
    pub database_oid: i64,
    /// The oid of the table `installation`.
    pub table_oid: i64,
}

/// A mark, as a process remembers it. A database with a lower one is older than what the process has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The installation.
    pub installation: Uuid,
    /// When the installation's epoch began. Marks of different epochs are not comparable.
    pub epoch: DateTime<Utc>,
    /// The number of the mark.
    pub number: i64,
    /// When it was made, by the server's clock.
    pub at: DateTime<Utc>,
    /// The server's timeline; `None` if the server does not report it.
    pub timeline: Option<i32>,
    /// The end of the WAL before the mark's own commit, in bytes; `None` if the server does not report it.
    pub lsn: Option<i64>,
    /// `seq` of the default tenant's newest event.
    pub event_seq: i64,
    /// The branch: a process that starts without a memory begins one with its first mark. So the numbers that were made after a
    /// rollback can be told from those before it. `None` if a version without branches made the mark.
    #[serde(default)]
    pub branch: Option<Uuid>,
}

/// Maximum number of earlier branches that the database keeps.
pub const KEPT_BRANCHES: usize = 32;

/// What the server and the database say now.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The installation; `None` before the first mark.
    pub installation: Option<Uuid>,
    /// Its name.
    pub name: Option<String>,
    /// The hold that is recorded in the database.
    pub hold: Option<Hold>,
    /// When its epoch began.
    pub epoch: DateTime<Utc>,
    /// The number of the last mark.
    pub mark: i64,
    /// When the last mark was made; `None` if there is none yet.
    pub marked_at: Option<DateTime<Utc>>,
    /// The branch of the last mark.
    pub branch: Option<Uuid>,
    /// The numbers with which earlier branches ended, of the newest [`KEPT_BRANCHES`].
    pub earlier_branches: BTreeMap<Uuid, i64>,
    /// `seq` of the default tenant's newest event.
    pub event_seq: i64,
    /// Where the data was at the last mark.
    pub marked_place: Option<Place>,
    /// Where the data is.
    pub place: Place,
    /// The server's timeline.
    pub timeline: Option<i32>,
    /// The end of the server's WAL.
    pub lsn: Option<i64>,
    /// The end of the WAL that the server replayed when it was promoted or recovered.
    pub replayed_lsn: Option<i64>,
    /// Whether a transaction that this process has committed is missing.
    pub is_commit_lost: bool,
    /// Whether the server is a standby.
    pub is_standby: bool,
    /// When the server was started.
    pub started_at: DateTime<Utc>,
    /// The newest heartbeat of registered workers; `None` if none is registered. Workers deregister when they stop, so an
    /// old heartbeat means that they ended without a stop, as in every backup of a running installation.
    pub heartbeat_at: Option<DateTime<Utc>>,
    /// The server's time.
    pub now: DateTime<Utc>,
}

/// What a process may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// Send: this is the database that was last used, or a new one. A hold that is recorded in it is void.
    Sends,
    /// Nothing yet: the server is a standby.
    Standby,
    /// Send nothing until an operator decides.
    Holds(Hold),
}

/// The settings of the guard.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// The name of this installation in the configuration.
    pub name: Option<&'a str>,
    /// Maximum time a database may have been unused if no mark of it is stored on this machine.
    pub max_silence: Duration,
}

/// How much older than the database's last mark a memory may be that explains a silence: the file is written every few seconds.
const EXPLAINED: TimeDelta = TimeDelta::minutes(1);

/// Decides. `memory` is the newest mark that this process, or an earlier one on this machine, has seen.
pub fn decide(observed: &Observation, memory: Option<&Mark>, rules: Rules<'_>) -> Finding {
    if observed.is_standby {
        return Finding::Standby;
    }
    let memory = memory.filter(|memory| observed.installation == Some(memory.installation));
    if let Some(hold) = &observed.hold {
        // A process without a memory may have found a database that nobody used for long, and this one knows better.
        let is_explained = hold.reason == HoldReason::Stale
            && moved(observed).is_none()
            && memory.is_some_and(|memory| older(observed, memory).is_none() && explains_silence(observed, memory));
        if !is_explained {
            return Finding::Holds(hold.clone());
        }
    }
    let found = moved(observed)
        .or_else(|| memory.and_then(|memory| older(observed, memory)))
        .or_else(|| stale(observed, memory, rules.max_silence))
        .or_else(|| other_installation(observed, rules.name));
    match found {
        Some((reason, detail)) => Finding::Holds(Hold { reason, since: observed.now, detail }),
        None => Finding::Sends,
    }
}

fn moved(observed: &Observation) -> Option<(HoldReason, String)> {
    let (now, then) = (observed.place, observed.marked_place?);
    let servers = now.system_identifier.zip(then.system_identifier);
    let detail = if let Some((now, then)) = servers.filter(|(now, then)| now != then) {
        format!(
            "The data is on another server (system identifier {now}) than before ({then}): a dump was restored, or the database \
             was moved."
        )
    } else if now.database_oid != then.database_oid {
        "The data is in another database than before: a dump was restored, or the database was moved or copied."
            .to_owned()
    } else if now.table_oid != then.table_oid {
        "The tables were created again: a dump was restored, or the database was moved.".to_owned()
    } else {
        return None;
    };
    Some((HoldReason::Moved, detail))
}

/// Returns why the database is older than the state that a process has seen.
fn older(observed: &Observation, memory: &Mark) -> Option<(HoldReason, String)> {
    if memory.epoch < observed.epoch {
        // An operator has released the guard since then.
        return None;
    }
    let seen = time(memory.at);
    if memory.epoch > observed.epoch {
        let detail = format!("The database is older than the last `postrider release`, of {}.", time(memory.epoch));
        return Some((HoldReason::RolledBack, detail));
    }
    let timelines = observed.timeline.zip(memory.timeline);
    let is_promoted = timelines.is_some_and(|(now, then)| now > then);
    let is_mark_lost = observed.mark < memory.number
        || lacks_branch(observed, memory)
        || observed.event_seq < memory.event_seq
        || observed.is_commit_lost;
    // The mark's own commit follows its position.
    let ends_before = |lsn: Option<i64>| lsn.zip(memory.lsn).is_some_and(|(now, then)| now <= then);
    let is_older = match timelines {
        Some((now, then)) if now < then => true,
        Some((now, then)) if now == then => is_mark_lost || ends_before(observed.lsn),
        // Where the promoted server left the earlier timeline.
        Some(_) => is_mark_lost || ends_before(observed.replayed_lsn),
        None => is_mark_lost,
    };
    if !is_older {
        return None;
    }
    let then = observed.marked_at.map_or_else(String::new, |at| format!(" (its last mark is of {})", time(at)));
    Some(if is_promoted {
        let detail = format!(
            "The server was promoted or recovered to a time{then} before a state that this process has seen, of {seen}: the \
             last transactions are lost."
        );
        (HoldReason::LostTail, detail)
    } else {
        (
            HoldReason::RolledBack,
            format!("The database{then} is older than a state that this process has seen, of {seen}."),
        )
    })
}

/// Returns whether the branch of a mark ended before the mark was made, or is missing: the database was rolled back, and has
/// been used since.
fn lacks_branch(observed: &Observation, memory: &Mark) -> bool {
    let Some(branch) = memory.branch.filter(|branch| observed.branch != Some(*branch)) else { return false };
    match observed.earlier_branches.get(&branch) {
        Some(end) => *end < memory.number,
        // Of the branches that are not kept any more, none ended after those that are.
        None if observed.earlier_branches.len() >= KEPT_BRANCHES => {
            observed.earlier_branches.values().min().is_some_and(|oldest| memory.number > *oldest)
        }
        None => true,
    }
}

/// Returns whether the database is as a process last saw it, so that all processes have ended since, as in a power cut. A memory
/// from long before the last mark does not tell whether this is the newest state.
fn explains_silence(observed: &Observation, memory: &Mark) -> bool {
    let is_recent = |marked: DateTime<Utc>| marked - memory.at <= EXPLAINED;
    memory.epoch == observed.epoch && observed.marked_at.is_some_and(is_recent)
}

/// Returns the reason for a hold if no process has used the database for `max_silence`. Applies only if no memory shows that it is the newest state.
fn stale(observed: &Observation, memory: Option<&Mark>, max_silence: Duration) -> Option<(HoldReason, String)> {
    if memory.is_some_and(|memory| explains_silence(observed, memory)) {
        return None;
    }
    let heartbeat = observed.heartbeat_at?;
    let used_at = observed.marked_at.map_or(heartbeat, |marked| marked.max(heartbeat));
    let max_silence = TimeDelta::from_std(max_silence).unwrap_or(TimeDelta::MAX);
    (observed.now - used_at > max_silence).then(|| {
        let detail = format!(
            "No process has used the database since {}, and the last workers did not stop properly: it looks like a restored \
             backup.",
            time(used_at)
        );
        (HoldReason::Stale, detail)
    })
}

fn other_installation(observed: &Observation, name: Option<&str>) -> Option<(HoldReason, String)> {
    let (configured, recorded) = (name?, observed.name.as_deref()?);
    (configured != recorded).then(|| {
        let detail = format!(
            "The database belongs to the installation `{recorded}`, and this configuration names `{configured}` \
             (restore_guard.installation): the database was copied, or the configuration is that of another installation."
        );
        (HoldReason::OtherInstallation, detail)
    })
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests;
