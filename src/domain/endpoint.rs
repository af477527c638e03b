//! Webhook endpoints: what may be set, what state one is in, and the secret that signs its posts (Standard Webhooks 1.0).

use std::fmt;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use url::Url;

use super::event::EventType;
use super::id::EndpointId;
use super::keyring::{Keyring, KeyringError, Purpose};
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

/// What encrypted secrets begin with, as `webhook_endpoints.secret` documents. Secrets in the clear are random.
pub const SEALED: &[u8] = b"PRSEAL1\0";

/// A secret as it is stored: encrypted with the keyring, tied to its endpoint; in the clear where there is no keyring.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret(Vec<u8>);

impl StoredSecret {
    /// As read from the database.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Encrypts a secret of this endpoint, if there is something to encrypt it with.
    pub fn seal(secret: &[u8], keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Self, KeyringError> {
        let Some(keyring) = keyring else { return Ok(Self(secret.to_vec())) };
        let sealed = keyring.seal(Purpose::WebhookSecret, endpoint.0.as_bytes(), secret)?;
        Ok(Self([SEALED, &sealed].concat()))
    }

    /// What signs.
    pub fn open(&self, keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Vec<u8>, SecretError> {
        let Some(sealed) = self.0.strip_prefix(SEALED) else { return Ok(self.0.clone()) };
        let keyring = keyring.ok_or(SecretError::NoKeyring)?;
        Ok(keyring.open(Purpose::WebhookSecret, endpoint.0.as_bytes(), sealed)?)
    }

    /// What is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether that is encrypted.
    pub fn is_sealed(&self) -> bool {
        self.0.starts_with(SEALED)
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_sealed() { "whsec_… (sealed)" } else { "whsec_…" })
    }
}

/// Why a stored secret cannot sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is encrypted, and nothing is configured to decrypt it with.
    #[error("the webhook's secret is stored encrypted: configure secret_key as it was")]
    NoKeyring,
    /// It was encrypted with another secret, or altered.
    #[error("the webhook's secret {0}, or rotate the webhook's secret")]
    Keyring(#[from] KeyringError),
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

    #[test]
    fn a_sealed_secret_opens_for_its_endpoint_and_key_alone() {
        let (id, other) = (EndpointId(uuid::Uuid::from_u128(1)), EndpointId(uuid::Uuid::from_u128(2)));
        let (ring, strange) = (Keyring::new("one", []), Keyring::new("two", []));
        let sealed = StoredSecret::seal(&[7; 32], Some(&ring), id).unwrap();
        assert!(sealed.is_sealed() && (24..=100).contains(&sealed.bytes().len()));
        assert_eq!(sealed.open(Some(&ring), id).unwrap(), [7; 32]);
        assert_eq!(sealed.open(None, id), Err(SecretError::NoKeyring));
        for (ring, id) in [(&ring, other), (&strange, id)] {
            assert_eq!(sealed.open(Some(ring), id), Err(SecretError::Keyring(KeyringError::NotOurs)));
        }
        let clear = StoredSecret::seal(&[7; 32], None, id).unwrap();
        assert_eq!((clear.is_sealed(), clear.open(Some(&ring), id)), (false, Ok(vec![7; 32])));
        assert_eq!(format!("{clear:?} {sealed:?}"), "whsec_… whsec_… (sealed)");
    }
}
