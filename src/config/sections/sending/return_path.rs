//! `[return_path]`: the signed return paths by which bounces are matched to messages.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::routes::ascii;
use crate::config::values::range::within_time;

/// Settings of the return path, which is the address in MAIL FROM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ReturnPath {
    /// The domain of signed return paths. Its MX record must lead to `inbound.listen`, or to a server that posts
    /// messages to `/v1/inbound`. Without a domain, bounces go to the sender's address. Needs `secret_key`.
    pub domain: Option<String>,
    /// Whether each recipient of a message gets a separate SMTP transaction, with a return path that identifies the
    /// recipient. Without it, the recipients of one transaction share a return path, and any of them can forge a bounce
    /// or a complaint about another. Such a report changes no status and suppresses no address; its event has
    /// `"vouched": false`. Reports about messages to one recipient always count. With it, a message to 50 recipients is
    /// transferred 50 times.
    pub verp: bool,
    /// How long a return path is valid, counted in days, 1d–365d.
    #[serde(with = "crate::config::values::duration")]
    pub lifetime: Duration,
}

const DAY: Duration = Duration::from_hours(24);

impl ReturnPath {
    /// Returns the domain in the form that addresses use: A-labels, lower case.
    pub fn domain_ascii(&self) -> Option<String> {
        ascii(self.domain.as_deref()?)
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within_time(self.lifetime, DAY..=365 * DAY)?;
        match &self.domain {
            // With a longer domain, a return path would exceed the length of an address.
            Some(domain) if ascii(domain).is_none_or(|ascii| ascii.len() > 200) => {
                Err(format!("{domain:?} is not a domain name such as return.example.net, of at most 200 characters"))
            }
            _ => Ok(()),
        }
    }
}
