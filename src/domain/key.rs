//! API keys: format, scopes, and hashes for lookup.

use std::fmt::Write as _;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// A scope of an API key. `Admin` allows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = KeyScope)]
pub enum Scope {
    /// Send, cancel, reschedule and retry messages.
    Send,
    /// Read messages, events and state.
    Read,
    /// All operations, including API keys and configuration.
    Admin,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 3] = [Self::Send, Self::Read, Self::Admin];

    /// Returns the scope's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Admin => "admin",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a scope; use `send`, `read` or `admin`"))
    }
}

/// An API key in plaintext. It is returned once, on creation, and never stored.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Creates a key from 32 random bytes.
    pub fn from_bytes(random: [u8; 32]) -> Self {
        Self(format!("pr_{}", hex(&random)))
    }

    /// Returns the plaintext key, which follows `Bearer` in the `Authorization` header.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored for a key. A plain digest is enough, because 256 random bits cannot be guessed.
    pub fn hash(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }
}

/// Formats bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
