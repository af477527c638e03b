//! `[timeouts]`: timeouts of the SMTP client (RFC 5321 §4.5.3.2). Timeouts below those of the RFC cause duplicates: a
//! server that is still storing a message receives it again.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::range::within_time;

/// Timeouts of the SMTP client, each 1s–1h.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timeouts {
    /// For a TCP connection: `POSTRIDER_TIMEOUTS__CONNECT`, a duration, default `30s`.
    #[serde(with = "super::duration")]
    pub connect: Duration,
    /// For the greeting and the reply to any command but DATA: `POSTRIDER_TIMEOUTS__COMMAND`, a duration, default `5m`.
    #[serde(with = "super::duration")]
    pub command: Duration,
    /// For the reply to DATA: `POSTRIDER_TIMEOUTS__DATA`, a duration, default `2m`.
    #[serde(with = "super::duration")]
    pub data: Duration,
    /// For the server to receive a block of the message: `POSTRIDER_TIMEOUTS__BLOCK`, a duration, default `3m`.
    #[serde(with = "super::duration")]
    pub block: Duration,
    /// For the reply to the final dot: `POSTRIDER_TIMEOUTS__FINAL_DOT`, a duration, default `10m`.
    #[serde(with = "super::duration")]
    pub final_dot: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            command: Duration::from_mins(5),
            data: Duration::from_mins(2),
            block: Duration::from_mins(3),
            final_dot: Duration::from_mins(10),
        }
    }
}

impl Timeouts {
    pub(super) fn check(&self) -> Result<(), String> {
        [self.connect, self.command, self.data, self.block, self.final_dot]
            .into_iter()
            .try_for_each(|wait| within_time(wait, Duration::from_secs(1)..=Duration::from_hours(1)))
    }
}
