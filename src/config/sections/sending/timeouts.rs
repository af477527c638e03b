//! `[timeouts]`: timeouts of the SMTP client (RFC 5321 §4.5.3.2). Timeouts below those of the RFC cause duplicates: a
//! server that is still storing a message receives it again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::range::within_time;

/// Timeouts of the SMTP client, each 1s–1h.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeouts {
    /// Timeout for opening a TCP connection.
    #[serde(with = "crate::config::values::duration")]
    pub connect: Duration,
    /// Timeout for the greeting and for the reply to any command but DATA.
    #[serde(with = "crate::config::values::duration")]
    pub command: Duration,
    /// Timeout for the reply to DATA.
    #[serde(with = "crate::config::values::duration")]
    pub data: Duration,
    /// Timeout for sending one block of the message.
    #[serde(with = "crate::config::values::duration")]
    pub block: Duration,
    /// Timeout for the reply to the final dot.
    #[serde(with = "crate::config::values::duration")]
    pub final_dot: Duration,
}

impl Timeouts {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        [self.connect, self.command, self.data, self.block, self.final_dot]
            .into_iter()
            .try_for_each(|wait| within_time(wait, Duration::from_secs(1)..=Duration::from_hours(1)))
    }
}
