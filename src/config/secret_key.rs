//! A secret that other keys are derived from: wiped from memory when dropped, never shown.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the operator chose as the service's own secret.
#[derive(Clone)]
pub struct SecretKey(SecretString);

/// Characters of the shortest one: 24 random octets in base64.
const SHORTEST: usize = 32;

impl SecretKey {
    /// The secret, for the one who derives keys from it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub(super) fn check(&self) -> Result<(), String> {
        if self.expose().len() >= SHORTEST {
            Ok(())
        } else {
            Err(format!("must have {SHORTEST} characters or more: take the output of `openssl rand -base64 33`"))
        }
    }
}

impl From<String> for SecretKey {
    fn from(secret: String) -> Self {
        Self(secret.into())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey")
    }
}

/// Without the secret, like every other way of showing it.
impl Serialize for SecretKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("")
    }
}

impl<'de> Deserialize<'de> for SecretKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}
