//! A secret from which keys are derived. It is wiped from memory when dropped and never displayed.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The secret key of the installation.
#[derive(Clone)]
pub struct SecretKey(SecretString);

/// Minimum length in bytes: that of 24 random bytes in base64.
const MIN_LENGTH: usize = 32;

impl SecretKey {
    /// Returns the secret, to derive keys from it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        if self.expose().len() >= MIN_LENGTH {
            Ok(())
        } else {
            Err(format!("must have {MIN_LENGTH} characters or more: use the output of `openssl rand -base64 33`"))
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

/// Serialises without the secret.
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
