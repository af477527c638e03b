//! Webhook endpoints: their settings, their state, and the secret that signs deliveries (Standard Webhooks 1.0).

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::TimeDelta;
use url::Url;

use crate::domain::event::EventType;
use crate::domain::id::EndpointId;
use crate::domain::installation::keyring::{Keyring, KeyringError, Purpose};
use crate::domain::limits::Change;
use crate::domain::words::words;

/// The maximum length of a URL, in bytes.
pub const MAX_URL: usize = 2_048;
/// The maximum length of a description, in characters.
pub const MAX_DESCRIPTION: usize = 1_000;
/// Allowed numbers of concurrent posts.
pub const CONCURRENCY: RangeInclusive<u64> = 1..=256;
/// Allowed numbers of posts per second; the minimum is about one per day.
pub const RATE: RangeInclusive<f64> = 1e-5..=1e5;
/// Allowed numbers of events in one delivery.
pub const BATCH: RangeInclusive<u64> = 1..=100;
/// How long the previous secret still signs in addition to a new secret.
pub const PREVIOUS_SECRET_TTL: TimeDelta = TimeDelta::hours(24);

words! {
    /// The form of the bodies and headers of deliveries.
    pub enum PostFormat as "WebhookFormat" {
        /// Events as `GET /v1/events` returns them, with the headers of Standard Webhooks.
        Postrider = "postrider",
        /// The payloads of Resend's webhooks, one event in each, and `svix-*` headers in addition to `webhook-*`.
        /// Events that Resend does not have are left out.
        Resend = "resend",
    }
}

impl FromStr for PostFormat {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|format| format.as_str() == word).ok_or(())
    }
}

/// The settings of a webhook endpoint besides its URL. In a new endpoint, a setting that is not set has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// A description for the operator; empty if cleared.
    pub description: Change<String>,
    /// The subscribed event types; all if cleared.
    pub events: Change<Vec<EventType>>,
    /// Maximum concurrent posts.
    pub concurrency: Option<i16>,
    /// Maximum posts per second; unlimited if cleared.
    pub rate: Change<f64>,
    /// Maximum events in one delivery.
    pub batch: Option<i16>,
    /// The form of deliveries.
    pub format: Option<PostFormat>,
}

/// Changes to a webhook endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointChange {
    /// The new URL.
    pub url: Option<Url>,
    /// `true` disables the endpoint; `false` enables it and resets its failures.
    pub disabled: Option<bool>,
    /// The other settings.
    pub settings: Settings,
}

/// The state of a webhook endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = WebhookState)]
pub enum State {
    /// The last post succeeded, or there was none yet.
    Active,
    /// Recent posts have failed; they are retried.
    Failing,
    /// Nothing is posted until the endpoint is enabled again.
    Disabled,
}

/// A signing secret of 32 random bytes. It is stored, because every post is signed with it, and returned once by the
/// API.
pub struct Secret([u8; 32]);

impl Secret {
    /// Creates a secret from random bytes.
    pub fn from_bytes(random: [u8; 32]) -> Self {
        Self(random)
    }

    /// Returns the signing key.
    pub fn bytes(&self) -> &[u8] {
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

/// The prefix of encrypted secrets in the column `webhook_endpoints.secret`. A plaintext secret is random, so it does
/// not begin with this prefix.
pub const ENCRYPTED_PREFIX: &[u8] = b"PRSEAL1\0";

/// A stored secret. It is encrypted with the keyring and bound to its endpoint, or plaintext if there is no keyring.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredSecret(Vec<u8>);

impl StoredSecret {
    /// Creates a stored secret from its column.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Encrypts the secret of this endpoint, if there is a keyring.
    pub fn seal(secret: &[u8], keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Self, KeyringError> {
        let Some(keyring) = keyring else { return Ok(Self(secret.to_vec())) };
        let encrypted = keyring.seal(Purpose::WebhookSecret, endpoint.0.as_bytes(), secret)?;
        Ok(Self([ENCRYPTED_PREFIX, &encrypted].concat()))
    }

    /// Returns the signing key, decrypted if necessary.
    pub fn open(&self, keyring: Option<&Keyring>, endpoint: EndpointId) -> Result<Vec<u8>, SecretError> {
        let Some(encrypted) = self.0.strip_prefix(ENCRYPTED_PREFIX) else { return Ok(self.0.clone()) };
        let keyring = keyring.ok_or(SecretError::NoKeyring)?;
        Ok(keyring.open(Purpose::WebhookSecret, endpoint.0.as_bytes(), encrypted)?)
    }

    /// Returns the stored bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns whether the secret is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.0.starts_with(ENCRYPTED_PREFIX)
    }
}

impl fmt::Debug for StoredSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_encrypted() { "whsec_… (encrypted)" } else { "whsec_…" })
    }
}

/// The reason why a stored secret cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// It is encrypted, and no `secret_key` is configured.
    #[error("the webhook endpoint's secret is encrypted; configure the secret_key that encrypted it")]
    NoKeyring,
    /// It is encrypted with another `secret_key`, or was altered.
    #[error("cannot decrypt the webhook endpoint's secret: {0}, or rotate the secret")]
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
    fn secret_is_decrypted_only_for_its_endpoint_and_key() {
        let (id, other) = (EndpointId(uuid::Uuid::from_u128(1)), EndpointId(uuid::Uuid::from_u128(2)));
        let (ring, other_ring) = (Keyring::new("one", []), Keyring::new("two", []));
        let encrypted = StoredSecret::seal(&[7; 32], Some(&ring), id).unwrap();
        assert!(encrypted.is_encrypted() && (24..=100).contains(&encrypted.bytes().len()));
        assert_eq!(encrypted.open(Some(&ring), id).unwrap(), [7; 32]);
        assert_eq!(encrypted.open(None, id), Err(SecretError::NoKeyring));
        for (ring, id) in [(&ring, other), (&other_ring, id)] {
            assert_eq!(encrypted.open(Some(ring), id), Err(SecretError::Keyring(KeyringError::OtherSecret)));
        }
        let plain = StoredSecret::seal(&[7; 32], None, id).unwrap();
        assert_eq!((plain.is_encrypted(), plain.open(Some(&ring), id)), (false, Ok(vec![7; 32])));
        assert_eq!(format!("{plain:?} {encrypted:?}"), "whsec_… whsec_… (encrypted)");
    }
}
