//! Why there is no Postgres, each in one line that says what to do.

use std::io;
use std::path::{Path, PathBuf};

use crate::db::DbError;

/// What can go wrong with the private Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No binaries anywhere.
    #[error(
        "no Postgres found; install {wanted} (Debian, Ubuntu: apt install postgresql; Fedora: dnf install \
         postgresql-server; macOS: brew install postgresql@17). To use a Postgres that runs elsewhere, run \
         `postrider serve --migrate` with DATABASE_URL: `dev` always starts its own"
    )]
    NotFound {
        /// What would do, such as `Postgres 15 or newer`.
        wanted: String,
    },
    /// Binaries, but of a version that does not do.
    #[error("found only Postgres {found} ({place}); {wanted} is needed")]
    WrongVersion {
        /// The newest version found.
        found: u32,
        /// Where it is.
        place: PathBuf,
        /// What would do.
        wanted: String,
    },
    /// Another process has the directory.
    #[error("another postrider dev is running in this directory (pid {pid}, {})", dir.display())]
    InUse {
        /// The cluster's directory.
        dir: PathBuf,
        /// The other process.
        pid: String,
    },
    /// A Postgres that an earlier run left behind does not end.
    #[error("a Postgres of an earlier run does not end (pid {pid}, {}); end it and start again", dir.display())]
    Leftover {
        /// The cluster's directory.
        dir: PathBuf,
        /// The old postmaster.
        pid: u32,
    },
    /// Neither `postgres` nor `nobody` exists.
    #[error(
        "Postgres cannot run as root, and there is no user `postgres` or `nobody` to run it as; start as another user"
    )]
    NoAccount,
    /// The password file is gone, so nobody can log in.
    #[error("{} is missing, so the cluster beside it cannot be opened; put it back or remove the directory", path.display())]
    NoPassword {
        /// The missing file.
        path: PathBuf,
    },
    /// No free port on 127.0.0.1.
    #[error("no free port on 127.0.0.1 for Postgres: {source}")]
    NoPort {
        /// What the system said.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("Postgres could not make its cluster in {}: {reason}", dir.display())]
    Init {
        /// The cluster's directory.
        dir: PathBuf,
        /// What it said.
        reason: String,
    },
    /// The server ended instead of starting.
    #[error("Postgres did not start: {reason} (log: {})", log.display())]
    Start {
        /// What it said last.
        reason: String,
        /// Where it said more.
        log: PathBuf,
    },
    /// The server did not end in time, and was ended the hard way.
    #[error("Postgres did not shut down within {seconds} s")]
    Stop {
        /// How long was waited.
        seconds: u64,
    },
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The server is up and refused a statement.
    #[error("the private Postgres: {0}")]
    Database(#[from] DbError),
}

impl PostgresError {
    /// For `map_err`: names the file in an I/O error.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Whether another try may go better: the port was taken in between, or an old server's last children are
    /// still leaving.
    pub(super) fn is_passing(&self) -> bool {
        let passing = |reason: &str| {
            ["Address already in use", "could not bind", "could not create any TCP", "pre-existing shared memory"]
                .iter()
                .any(|sign| reason.contains(sign))
        };
        matches!(self, Self::Start { reason, .. } if passing(reason))
    }
}

/// What marks a line that tells what went wrong, in the output of `initdb` and in the log.
const SIGNS: [&str; 6] = ["PANIC:", "FATAL:", "ERROR:", "error:", "could not", "unrecognized"];

/// What the log puts before the words themselves, after time and pid.
const SEVERITIES: [&str; 5] = ["PANIC:", "FATAL:", "ERROR:", "WARNING:", "LOG:"];

/// What our own first connections are answered; it is no complaint.
const PROBE: &str = "the database system is starting up";

/// The words of an output that tell what went wrong: its first complaint, since the last often only says that
/// something did; without one its last line.
pub(super) fn complaint(output: &str) -> String {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(PROBE));
    let first = lines.clone().find(|line| SIGNS.iter().any(|sign| line.contains(sign)));
    let line = first.or_else(|| lines.next_back()).unwrap_or("it said nothing");
    let words = SEVERITIES.iter().find_map(|severity| Some(line.split_once(severity)?.1.trim()));
    words.unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_complaint_is_the_one_to_show() {
        let output = "creating subdirectories ... ok\ninitdb: error: could not write: No space left on device\nbye\n";
        assert_eq!(complaint(output), "initdb: error: could not write: No space left on device");
        let log = "2026-11-23 21:01:52.708 UTC [8] FATAL:  the database system is starting up\n\
            2026-11-23 21:01:52.708 UTC [9] LOG:  could not bind: Address already in use\n\
            2026-11-23 21:01:52.708 UTC [9] FATAL:  could not create any TCP/IP sockets\n";
        assert_eq!(complaint(log), "could not bind: Address already in use");
        assert_eq!(complaint("a\nb\n\n"), "b");
        assert_eq!(complaint(""), "it said nothing");
    }
}
