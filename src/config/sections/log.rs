//! `[log]`: filter and format of the log on standard error.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// Logging.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Log {
    /// The format.
    pub format: Format,
    /// Which events are logged: filter directives of `tracing`, such as `info,postrider::smtp=debug`.
    pub filter: String,
    /// Whether lines have the email addresses of people, and the text of messages to postmaster.
    pub personal_data: bool,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

impl Log {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        let invalid = |error| format!("is not a log filter such as `info,postrider::smtp=debug`: {error}");
        EnvFilter::try_new(&self.filter).map(drop).map_err(invalid)
    }
}
