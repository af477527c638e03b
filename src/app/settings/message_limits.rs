//! The limits of messages: those that requests are parsed with, and those that `postrider.send` applies.

use crate::accept::request::Limits;
use crate::config::Config;
use crate::config::Unverified;
use crate::db::messages::sql_inbox::SendSettings;

/// Returns the limits of messages.
pub(in crate::app) fn limits(config: &Config) -> Limits {
    Limits {
        recipients: config.accept.max_recipients as usize,
        attachments: config.accept.max_attachments as usize,
        attachment_bytes: u64::from(config.accept.max_upload_mib.max(config.accept.max_body_mib)) << 20,
        simulator: config.simulator.enabled,
        ..Limits::default()
    }
}

/// Returns the settings that `postrider.send` applies.
pub(in crate::app) fn send_settings(config: &Config) -> SendSettings {
    let Limits { recipients, attachments, attachment_bytes, headers, tags, schedule_ahead, simulator } = limits(config);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    SendSettings {
        recipients: count(recipients),
        attachments: count(attachments),
        headers: count(headers),
        tags: count(tags),
        attachment_bytes: i64::try_from(attachment_bytes).unwrap_or(i64::MAX),
        schedule_ahead: schedule_ahead.num_seconds(),
        simulator,
        verified_domains_only: config.domains.unverified == Unverified::Refuse,
    }
}
