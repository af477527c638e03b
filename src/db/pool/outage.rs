//! Why the database cannot be used.

use std::fmt::{self, Display};
use std::sync::Arc;

/// SQLSTATE: canceled by `statement_timeout`.
pub(super) const QUERY_CANCELED: &str = "57014";
/// SQLSTATE: a lock was not granted within `lock_timeout`.
pub(super) const LOCK_NOT_AVAILABLE: &str = "55P03";
/// SQLSTATE: the disk is full.
pub(super) const DISK_FULL: &str = "53100";
/// SQLSTATE: too many connections.
pub(super) const FULL: &str = "53300";
/// SQLSTATE: the server is read-only, like the old primary after a failover.
pub(super) const READ_ONLY: &str = "25006";

/// What is wrong with the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// It cannot be reached or does not respond.
    Unreachable,
    /// It accepts no more connections.
    Full,
    /// It is read-only, as after a failover.
    ReadOnly,
    /// It did not respond to this call in time.
    Slow,
    /// Its disk is full.
    DiskFull,
    /// It is out of memory.
    OutOfMemory,
    /// It is starting up or shutting down.
    Starting,
    /// It denies the connection or a statement: the role, its password or privileges, or the database name is wrong.
    Denied,
}

impl Trouble {
    /// Returns a description for operators.
    pub fn description(self) -> &'static str {
        match self {
            Self::Unreachable => "the database is not available",
            Self::Full => "the database accepts no more connections",
            Self::ReadOnly => "the database is read-only, as after a failover",
            Self::Slow => "the database did not respond in time",
            Self::DiskFull => "the database's disk is full",
            Self::OutOfMemory => "the database is out of memory",
            Self::Starting => "the database is starting up or shutting down",
            Self::Denied => "the database denies access to this role",
        }
    }

    /// Returns the trouble for a SQLSTATE, if it indicates one.
    pub(super) fn from_sqlstate(code: &str) -> Option<Self> {
        Some(match code {
            FULL => Self::Full,
            READ_ONLY => Self::ReadOnly,
            QUERY_CANCELED | LOCK_NOT_AVAILABLE => Self::Slow,
            DISK_FULL => Self::DiskFull,
            "53200" => Self::OutOfMemory,
            "57P01" | "57P02" | "57P03" => Self::Starting,
            "3D000" | "42501" => Self::Denied,
            _ if code.starts_with("28") => Self::Denied,
            _ => return None,
        })
    }
}

/// Why calls fail.
#[derive(Debug, Clone)]
pub struct Outage {
    /// What is wrong.
    pub trouble: Trouble,
    /// The message of the database or the system.
    detail: Arc<str>,
}

impl Outage {
    pub(in crate::db) fn new(trouble: Trouble, detail: impl Display) -> Self {
        Self { trouble, detail: detail.to_string().into() }
    }
}

impl Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlstates_map_to_troubles() {
        for (code, trouble) in [
            ("53100", Trouble::DiskFull),
            ("53200", Trouble::OutOfMemory),
            ("53300", Trouble::Full),
            ("57P03", Trouble::Starting),
            ("25006", Trouble::ReadOnly),
            ("28P01", Trouble::Denied),
            ("3D000", Trouble::Denied),
            ("57014", Trouble::Slow),
        ] {
            assert_eq!(Trouble::from_sqlstate(code), Some(trouble), "{code}");
        }
        assert_eq!(Trouble::from_sqlstate("23505"), None);
    }
}
