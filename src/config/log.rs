//! `[log]`: what goes to standard error, and in which form.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// The process's own log.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// `POSTRIDER_LOG__FORMAT`, `text` for people or `json` for collectors, default `text`.
    pub format: Format,
    /// Which events are logged: `POSTRIDER_LOG__FILTER`, tracing's filter directives such as
    /// `info,postrider::smtp=debug`, default `info`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One line for people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Self { format: Format::Text, filter: "info".into() }
    }
}

impl Log {
    pub(super) fn check(&self) -> Result<(), String> {
        let broken = |error| format!("is no log filter such as `info,postrider::smtp=debug`: {error}");
        EnvFilter::try_new(&self.filter).map(drop).map_err(broken)
    }
}
