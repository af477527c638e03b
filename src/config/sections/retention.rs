//! `[retention]`: how long data is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within_time;

/// How long data is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retention {
    /// How long after its last use an uploaded file that no message refers to is kept, 1d–365d.
    #[serde(with = "crate::config::values::duration")]
    pub unused_blobs: Duration,
    /// How long the SMTP conversations of failed and traced attempts are kept, 1h–365d.
    #[serde(with = "crate::config::values::duration")]
    pub conversations: Duration,
}

impl Retention {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        let day = Duration::from_hours(24);
        within_time(self.unused_blobs, day..=365 * day)?;
        within_time(self.conversations, Duration::from_hours(1)..=365 * day)
    }
}
