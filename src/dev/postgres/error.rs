//! Errors of the embedded Postgres, each one line, and their hints.

use std::io;
use std::path::{Path, PathBuf};

use crate::db::DbError;

/// An error of the embedded Postgres.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// No binaries were found.
    #[error("no Postgres found")]
    NotFound {
        /// The version that is needed, such as `Postgres 15 or newer`.
        wanted: String,
    },
    /// Only unsuitable versions were found.
    #[error("found only Postgres {found} ({dir}); {wanted} is needed")]
    WrongVersion {
        /// The newest version found.
        found: u32,
        /// The directory of its programs.
        dir: PathBuf,
        /// The version that is needed.
        wanted: String,
    },
    /// Another process uses the directory.
    #[error("another postrider dev is running in this directory (pid {pid}, {})", dir.display())]
    InUse {
        /// The cluster's directory.
        dir: PathBuf,
        /// The pid of the other process.
        pid: String,
    },
    /// A Postgres that an earlier run left behind does not end.
    #[error("a Postgres of an earlier run does not end (pid {pid}, {})", dir.display())]
    Leftover {
        /// The cluster's directory.
        dir: PathBuf,
        /// The pid of the old postmaster.
        pid: u32,
    },
    /// Neither `postgres` nor `nobody` exists.
    #[error("Postgres cannot run as root, and there is no user `postgres` or `nobody` to run it as")]
    NoAccount,
    /// The password file is missing, so that login is not possible.
    #[error("{} is missing, so the cluster beside it cannot be opened", path.display())]
    NoPassword {
        /// The missing file.
        path: PathBuf,
    },
    /// No port on 127.0.0.1 is free.
    #[error("no free port on 127.0.0.1 for Postgres: {source}")]
    NoPort {
        /// The system's error.
        source: io::Error,
    },
    /// `initdb` failed.
    #[error("Postgres could not create its cluster in {}: {reason}", dir.display())]
    Init {
        /// The cluster's directory.
        dir: PathBuf,
        /// The error that it printed.
        reason: String,
    },
    /// The server ended instead of starting.
    #[error("Postgres did not start: {reason} (log: {})", log.display())]
    Start {
        /// The last error in its log.
        reason: String,
        /// The path of the log.
        log: PathBuf,
    },
    /// The server did not end in time, and was shut down immediately.
    #[error("Postgres did not shut down within {seconds} s")]
    Stop {
        /// The time limit, in seconds.
        seconds: u64,
    },
    /// A file or directory could not be used.
    #[error("{}: {source}", path.display())]
    File {
        /// The path of the file or directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The server refused a statement.
    #[error("the embedded Postgres refused a statement: {0}")]
    Database(#[from] DbError),
}

impl PostgresError {
    /// Returns the hint for this error, if there is one.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotFound { wanted } => {
                return Some(format!(
                    "install {wanted} (Debian, Ubuntu: apt install postgresql; Fedora: dnf install postgresql-server; \
                     macOS: brew install postgresql@17). To use a Postgres that runs elsewhere, run \
                     `postrider serve --migrate` with DATABASE_URL: `dev` always starts its own"
                ));
            }
            Self::WrongVersion { wanted, .. } => return Some(format!("install {wanted}")),
            Self::InUse { .. } => "stop it, or choose another directory with --dir",
            Self::Leftover { .. } => "end it and start again",
            Self::NoAccount => "start as another user",
            Self::NoPassword { .. } => "restore it, or remove the directory",
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Adds the path to an I/O error, for `map_err`.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }

    /// Returns whether a second start may succeed, because another program took the port, or because the last processes
    /// of an old server are still ending.
    pub(super) fn is_temporary(&self) -> bool {
        let is_temporary = |reason: &str| {
            ["Address already in use", "could not bind", "could not create any TCP", "pre-existing shared memory"]
                .iter()
                .any(|text| reason.contains(text))
        };
        matches!(self, Self::Start { reason, .. } if is_temporary(reason))
    }
}

/// Texts that mark an error line in the output of `initdb` and in the log.
const ERROR_MARKERS: [&str; 6] = ["PANIC:", "FATAL:", "ERROR:", "error:", "could not", "unrecognized"];

/// Severities in the log, between the pid and the text.
const SEVERITIES: [&str; 5] = ["PANIC:", "FATAL:", "ERROR:", "WARNING:", "LOG:"];

/// The log text of connections refused during the start, which is not an error.
const STARTING_UP: &str = "the database system is starting up";

/// Returns the error in an output: the first error line, because later ones are often less precise. Without an error
/// line, returns the last line.
pub(super) fn first_error(output: &str) -> String {
    let mut lines = output.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains(STARTING_UP));
    let first = lines.clone().find(|line| ERROR_MARKERS.iter().any(|marker| line.contains(marker)));
    let line = first.or_else(|| lines.next_back()).unwrap_or("it printed nothing");
    let message = SEVERITIES.iter().find_map(|severity| Some(line.split_once(severity)?.1.trim()));
    message.unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_error_line_is_returned() {
        let output = "creating subdirectories ... ok\ninitdb: error: could not write: No space left on device\nbye\n";
        assert_eq!(first_error(output), "initdb: error: could not write: No space left on device");
        let log = "2026-11-23 21:01:52.708 UTC [8] FATAL:  the database system is starting up\n\
            2026-11-23 21:01:52.708 UTC [9] LOG:  could not bind: Address already in use\n\
            2026-11-23 21:01:52.708 UTC [9] FATAL:  could not create any TCP/IP sockets\n";
        assert_eq!(first_error(log), "could not bind: Address already in use");
        assert_eq!(first_error("a\nb\n\n"), "b");
        assert_eq!(first_error(""), "it printed nothing");
    }
}
