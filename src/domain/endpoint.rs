//! Webhook endpoints: their settings, their state, and the secret that signs their posts (Standard Webhooks 1.0).

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

/// The maximum length of a URL, in bytes.
pub const MAX_URL: usize = 2_048;
/// The maximum length of a description, in characters.
pub const MAX_DESCRIPTION: usize = 1_000;
/// Concurrent posts.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=256;
/// Posts per second; the minimum is about one per day.
pub const RATE: RangeInclusive<f64> = 1e-5..=1e5;
/// Events in one post.
pub const BATCH: RangeInclusive<u64> = 1..=100;
/// How long the previous secret still signs in addition to a new one.
pub const OLD_SECRET_LASTS: TimeDelta = TimeDelta::hours(24);

/// The settings of an endpoint besides its URL. For a new endpoint, a setting that is kept has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// A description for readers; empty if cleared.
    pub description: Change<String>,
    /// The subscribed event types; all if cleared.
    pub events: Change<Vec<EventType>>,
    /// Concurrent posts.
    pub concurrency: Option<i16>,
    /// Posts per second; unlimited if cleared.
    pub rate: Change<f64>,
    /// Events in one post.
    pub batch: Option<i16>,
}

/// Changes to an endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointChange {
    /// The new URL.
    pub url: Option<Url>,
    /// Whether to disable the endpoint, or to enable it and reset its failures.
    pub disabled: Option<bool>,
    /// The other settings.
    pub settings: Settings,
}

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub enum State {
    /// The last post succeeded, or there was none yet.
    Active,
    /// Recent posts have failed; they are retried.
    Failing,
    /// Nothing is posted until the endpoint is enabled.
    Disabled,
}

/// A signing secret of 32 random bytes. It is stored, since every post is signed with it, and shown once.
pub struct Secret([u8; 32]);

impl Secret {
    /// Creates a secret from random bytes.
    pub fn from_bytes(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Returns the signing key.
    pub fn octets(&self) -> &[u8] {
        &self.0
    }

    /// Returns the text that a receiver's library expects: `whsec_` and base64.
    pub fn expose(&self) -> String {
        format!("whsec_{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_…")
    }
}

/// The prefix of encrypted secrets, as `webhook_endpoints.secret` documents. Plaintext secrets are random.
pub const SEALED: &[u8] = b"PRSEAL1\0";

/// A stored secret: encrypted with the keyring and bound to its endpoint, or plaintext if there is no keyring.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret(Vec<u8>);

impl StoredSecret {
    /// Creates a stored secret from its column.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Encrypts a secret of this endpoint if there is a keyring.
    pub fn seal(secret: &[u8], keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Self, KeyringError> {
        let Some(keyring) = keyring else { return Ok(Self(secret.to_vec())) };
        let sealed = keyring.seal(Purpose::WebhookSecret, endpoint.0.as_bytes(), secret)?;
        Ok(Self([SEALED, &sealed].concat()))
    }

    /// Returns the signing key, decrypted if necessary.
    pub fn open(&self, keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Vec<u8>, SecretError> {
        let Some(sealed) = self.0.strip_prefix(SEALED) else { return Ok(self.0.clone()) };
        let keyring = keyring.ok_or(SecretError::NoKeyring)?;
        Ok(keyring.open(Purpose::WebhookSecret, endpoint.0.as_bytes(), sealed)?)
    }

    /// Returns the stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether the secret is encrypted.
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
    /// It is encrypted, and no `secret_key` is configured.
    #[error("the webhook's secret is stored encrypted: configure secret_key as it was")]
    NoKeyring,
    /// It was encrypted with another `secret_key`, or altered.
    #[error("the webhook's secret {0}, or rotate the webhook's secret")]
    Keyring(#[from] KeyringError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secret_has_the_standard_format_and_is_never_logged() {
        let secret = Secret::from_bytes([0xff; 32]);
        assert_eq!(secret.expose(), "whsec_//////////////////////////////////////////8=");
        assert_eq!(format!("{secret:?}"), "whsec_…");
    }

    #[test]
    fn sealed_secret_opens_only_for_its_endpoint_and_key() {
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
