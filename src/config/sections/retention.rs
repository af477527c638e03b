//! `[retention]`: how long data is kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::values::period::period_text;
use crate::config::values::range::within_time;
use crate::domain::records::retention::{Period, Periods};

/// How long data is kept. Periods are a duration or `forever`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retention {
    /// Bodies, headers, attachments and template variables of messages, 1d–3650d; a stream may have its own period.
    #[serde(with = "crate::config::values::period")]
    pub content: Period,
    /// Messages and recipients, 1d–3650d, at least as long as `content` and `events`.
    #[serde(with = "crate::config::values::period")]
    pub messages: Period,
    /// Events, 7d–3650d.
    #[serde(with = "crate::config::values::period")]
    pub events: Period,
    /// The log of webhook posts, 1d–3650d.
    #[serde(with = "crate::config::values::period")]
    pub webhook_log: Period,
    /// Idempotency keys, 1d–3650d; never longer than their message.
    #[serde(with = "crate::config::values::period")]
    pub idempotency: Period,
    /// The audit log, 1d–3650d.
    #[serde(with = "crate::config::values::period")]
    pub audit: Period,
    /// Actions on many messages that have ended, 1d–3650d.
    #[serde(with = "crate::config::values::period")]
    pub actions: Period,
    /// Received messages, 1d–3650d.
    #[serde(with = "crate::config::values::period")]
    pub received: Period,
    /// How long an uploaded file that no message refers to is kept after its last use, 1d–365d.
    #[serde(with = "crate::config::values::duration")]
    pub unused_blobs: Duration,
    /// How long the SMTP conversations of failed and traced attempts are kept, 1h–365d.
    #[serde(with = "crate::config::values::duration")]
    pub conversations: Duration,
}

const DAY: Duration = Duration::from_hours(24);

impl Retention {
    /// Returns the periods. `return_path` is how long after the last attempt a bounce is still accepted.
    pub fn periods(&self, return_path: Duration) -> Periods {
        Periods {
            content: self.content,
            messages: self.messages,
            events: self.events,
            webhook_log: self.webhook_log,
            idempotency: self.idempotency,
            audit: self.audit,
            actions: self.actions,
            received: self.received,
            return_path,
        }
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within_time(self.unused_blobs, DAY..=365 * DAY)?;
        within_time(self.conversations, Duration::from_hours(1)..=365 * DAY)?;
        // Retries of webhook posts and readers of the feed need events for a few days.
        let periods =
            [self.content, self.messages, self.webhook_log, self.idempotency, self.audit, self.actions, self.received];
        for (period, least) in periods.map(|period| (period, DAY)).into_iter().chain([(self.events, 7 * DAY)]) {
            if let Some(period) = period.0 {
                within_time(period, least..=3650 * DAY)
                    .map_err(|why| format!("{why} (\"forever\" is allowed, too)"))?;
            }
        }
        Ok(())
    }

    /// Compares the periods with each other, once all keys are known. Returns each key whose period is longer than that
    /// of the messages, on which its data depends, with an error.
    pub(in crate::config) fn check_whole(&self) -> Vec<(&'static str, String)> {
        let messages = period_text(self.messages);
        let longer = [
            ("retention.content", self.content, "content is deleted with its message"),
            ("retention.events", self.events, "events have the recipient, tags and metadata from their message"),
        ];
        let longer = longer.into_iter().filter(|(_, period, _)| period.exceeds(self.messages));
        longer
            .map(|(key, period, why)| {
                let period = period_text(period);
                let text = format!(
                    "must not be longer than retention.messages, because {why}: it is {period}, and retention.messages is {messages}"
                );
                (key, text)
            })
            .collect()
    }
}
