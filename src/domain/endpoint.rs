//! Webhook endpoints: what may be set, what state one is in, and the secret that signs its posts (Standard Webhooks 1.0).

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use url::Url;

use super::event::EventType;
use super::limits::Change;

/// The longest URL, in octets.
pub const MAX_URL: usize = 2_048;
/// The longest description, in characters.
pub const MAX_DESCRIPTION: usize = 1_000;
/// Posts at one time.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=256;
/// Posts a second; the least is about one a day.
pub const RATE: RangeInclusive<f64> = 1e-5..=1e5;
/// Events in one post.
pub const BATCH: RangeInclusive<u64> = 1..=100;
/// How long the secret before still signs beside a new one.
pub const OLD_SECRET_LASTS: TimeDelta = TimeDelta::hours(24);

/// What may be set for an endpoint besides its URL. As a new one's settings, what stays is as usual.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// For people; cleared it is empty.
    pub description: Change<String>,
    /// Which events it wants; cleared it wants all.
    pub events: Change<Vec<EventType>>,
    /// Posts at one time.
    pub concurrency: Option<i16>,
    /// Posts a second; cleared it has no limit.
    pub rate: Change<f64>,
    /// Events in one post.
    pub batch: Option<i16>,
}

/// Changes to an endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointChange {
    /// Where to post from now on.
    pub url: Option<Url>,
    /// Whether to stop, or to begin anew as if nothing had failed.
    pub disabled: Option<bool>,
    /// The rest.
    pub settings: Settings,
}

/// Whether an endpoint gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub enum State {
    /// The last post succeeded, or there was none yet.
    Active,
    /// No post has succeeded for a while; it is tried again.
    Failing,
    /// Nothing is posted until somebody enables it.
    Disabled,
}

/// A secret, 32 random octets. It is kept, since every post is signed with it, and shown once.
pub struct Secret([u8; 32]);

impl Secret {
    /// Makes a secret of random octets.
    pub fn from_bytes(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// What signs.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// The text that a receiver's library takes: `whsec_` and base64.
    pub fn expose(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_written_as_libraries_read_it_and_never_logged() {
        let secret = Secret::from_bytes([0xff; 32]);
        assert_eq!(secret.expose(), "whsec_//////////////////////////////////////////8=");
        assert_eq!(format!("{secret:?}"), "whsec_…");
    }
}
