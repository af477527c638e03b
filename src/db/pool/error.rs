//! Database errors, by what the caller can do about them.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::time::Duration;

use super::outage::{DISK_FULL, LOCK_NOT_AVAILABLE, Outage, QUERY_CANCELED, READ_ONLY, Trouble};

/// A failed statement or transaction. Nothing was committed, except possibly if [`DbError::Unavailable`],
/// [`DbError::KnownOutage`] or [`DbError::Timeout`] occurred during COMMIT.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The connection URL cannot be read.
    #[error("the database URL is not valid: {0}")]
    Address(#[source] sqlx::Error),
    /// Postgres cannot be reached, is shutting down, is read-only or accepts no more connections: try again later.
    #[error("{} ({query}): {}", description(source), reason(source))]
    Unavailable {
        /// Name of the query.
        query: &'static str,
        /// Cause.
        source: sqlx::Error,
    },
    /// The database is known to be unavailable: try again later.
    #[error("{} ({query}): {outage}", outage.trouble.description())]
    KnownOutage {
        /// Name of the query.
        query: &'static str,
        /// The outage.
        outage: Outage,
        /// Whether the call may have been sent before the outage was detected.
        may_be_sent: bool,
    },
    /// No response within the time limit: try again later.
    #[error("the database did not respond to {query} within {} s", limit.as_secs())]
    Timeout {
        /// Name of the query.
        query: &'static str,
        /// The time limit.
        limit: Duration,
    },
    /// Postgres refused the statement itself: another try would fail too.
    #[error("the database refused {query}: {}", reason(source))]
    Refused {
        /// Name of the query.
        query: &'static str,
        /// Cause.
        source: sqlx::Error,
    },
}

/// SQLSTATE class of deadlocks and serialization failures.
const ROLLBACK: &str = "40";

impl DbError {
    /// Returns the error of a call that was not started because the service is stopping.
    pub fn closed(query: &'static str) -> Self {
        Self::Unavailable { query, source: sqlx::Error::PoolClosed }
    }

    /// Returns the error of a missing row that must exist.
    pub fn not_found(query: &'static str) -> Self {
        Self::Refused { query, source: sqlx::Error::RowNotFound }
    }

    pub(in crate::db) fn from_sqlx(query: &'static str, source: sqlx::Error) -> Self {
        let refused = match &source {
            sqlx::Error::Database(error) => error.code().is_some_and(|code| !is_temporary(&code)),
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::Encode(_)
            | sqlx::Error::RowNotFound
            | sqlx::Error::TypeNotFound { .. } => true,
            _ => false,
        };
        if refused { Self::Refused { query, source } } else { Self::Unavailable { query, source } }
    }

    /// Returns whether the same call may succeed later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::KnownOutage { .. } | Self::Timeout { .. })
    }

    /// Returns whether the database is unavailable. Returns false if its reply says that the configuration is wrong: the role, its
    /// password, the name of the database, or what TLS needs.
    pub fn is_outage(&self) -> bool {
        let is_refused_by_client = match self {
            Self::Unavailable { source: sqlx::Error::Tls(_) | sqlx::Error::Configuration(_), .. } => true,
            // A certificate that is not valid.
            Self::Unavailable { source: sqlx::Error::Io(error), .. } => error.kind() == ErrorKind::InvalidData,
            _ => false,
        };
        self.is_temporary() && !is_refused_by_client && self.trouble() != Some(Trouble::Denied)
    }

    /// Returns whether Postgres may have executed the call, or may still execute it, and only the response is missing.
    pub fn may_be_done(&self) -> bool {
        match self {
            Self::Address(_) => false,
            Self::Timeout { .. } => true,
            Self::KnownOutage { may_be_sent, .. } => *may_be_sent,
            Self::Unavailable { source, .. } | Self::Refused { source, .. } => match source {
                sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed => false,
                // The server reported a failure, so it did not execute the call, unless it was shut down during COMMIT.
                sqlx::Error::Database(_) => code(source).is_some_and(|code| code.starts_with("57P")),
                _ => true,
            },
        }
    }

    /// Returns whether a lock was not granted in time.
    pub fn is_locked_out(&self) -> bool {
        matches!(self, Self::Unavailable { source, .. } if code(source).as_deref() == Some(LOCK_NOT_AVAILABLE))
    }

    /// Returns whether the whole transaction was rolled back, and a part of it may succeed alone.
    pub fn is_undone(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Unavailable { source, .. } => code(source).is_some_and(|code| {
                [QUERY_CANCELED, LOCK_NOT_AVAILABLE].contains(&&*code) || code.starts_with(ROLLBACK)
            }),
            Self::Address(_) | Self::KnownOutage { .. } | Self::Timeout { .. } => false,
        }
    }

    /// Returns the trouble of the database; `None` if the same call would fail later too.
    pub fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::KnownOutage { outage, .. } => Some(outage.trouble),
            Self::Timeout { .. } | Self::Unavailable { source: sqlx::Error::PoolTimedOut, .. } => Some(Trouble::Slow),
            Self::Unavailable { source, .. } => Some(trouble_of(source)),
            Self::Address(_) | Self::Refused { .. } => None,
        }
    }

    /// Returns whether the statement itself was too slow. This does not mean that the database is unavailable.
    pub fn is_too_slow(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Unavailable { source: sqlx::Error::Database(error), .. } => {
                error.code().as_deref() == Some(QUERY_CANCELED)
            }
            _ => false,
        }
    }
}

/// Returns the error message of the server or the operating system, without the C source line that sqlx adds.
pub(in crate::db) fn reason(source: &sqlx::Error) -> String {
    match source {
        sqlx::Error::Database(error) => error.message().to_owned(),
        sqlx::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

fn trouble_of(source: &sqlx::Error) -> Trouble {
    code(source).and_then(|code| Trouble::from_sqlstate(&code)).unwrap_or(Trouble::Unreachable)
}

fn description(source: &sqlx::Error) -> &'static str {
    match source {
        sqlx::Error::PoolTimedOut => Trouble::Slow.description(),
        source => trouble_of(source).description(),
    }
}

/// Returns whether an error is temporary, by SQLSTATE: connection, authorization (a password is being changed),
/// resources such as a full disk, operator intervention, serialization, read-only after a failover, a transaction that
/// was idle for too long, lock not available, a missing database or privilege, and system errors.
fn is_temporary(code: &str) -> bool {
    ["08", "28", "53", "57", "58", "40"].iter().any(|class| code.starts_with(class))
        || [READ_ONLY, IDLE_IN_TRANSACTION, LOCK_NOT_AVAILABLE, "3D000", "42501"].contains(&code)
}

/// SQLSTATE: `idle_in_transaction_session_timeout`, which the service sets.
const IDLE_IN_TRANSACTION: &str = "25P03";

pub(in crate::db) fn is_read_only(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(READ_ONLY)
}

pub(in crate::db) fn is_disk_full(error: &sqlx::Error) -> bool {
    code(error).as_deref() == Some(DISK_FULL)
}

/// Returns the SQLSTATE, if the database returned an error.
pub(in crate::db) fn code(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsent_call_was_not_executed() {
        let outage = || Outage::new(Trouble::Unreachable, "gone");
        let known = |may_be_sent| DbError::KnownOutage { query: "q", outage: outage(), may_be_sent };
        let unavailable = |source| DbError::Unavailable { query: "q", source };
        assert!(!known(false).may_be_done() && !unavailable(sqlx::Error::PoolTimedOut).may_be_done());
        assert!(known(true).may_be_done() && unavailable(sqlx::Error::WorkerCrashed).may_be_done());
        assert!(DbError::Timeout { query: "q", limit: Duration::ZERO }.may_be_done());
        // The call was executed; only its response cannot be read.
        assert!(DbError::from_sqlx("q", sqlx::Error::RowNotFound).may_be_done());
    }
}
