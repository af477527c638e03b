//! `[restore_guard]`: keeps a restored or copied database from sending again what was sent already.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within_time;

/// The restore guard.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RestoreGuard {
    /// Whether the guard checks the database.
    pub enabled: bool,
    /// The name of this installation, 1–64 characters. A process whose name differs from the database's sends nothing.
    pub installation: Option<String>,
    /// Directory in which this machine remembers the newest state of the database that it has seen. Nothing is remembered
    /// if it does not exist, or if the path is empty.
    pub state: PathBuf,
    /// How long no process may have used a database whose workers did not stop properly, before a process that remembers
    /// nothing of it takes it for a restored backup, 1m–365d.
    #[serde(with = "crate::config::values::duration")]
    pub max_silence: Duration,
}

impl RestoreGuard {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        if let Some(name) = &self.installation
            && !is_name(name)
        {
            return Err("installation must have 1 to 64 printable characters".into());
        }
        within_time(self.max_silence, Duration::from_mins(1)..=Duration::from_hours(24 * 365))
    }
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.chars().count()) && name == name.trim() && !name.chars().any(char::is_control)
}
