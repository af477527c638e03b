//! API keys: what they look like, what they allow, and how one is recognised without being kept.

use std::fmt::Write as _;
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// What a key allows. `Admin` allows everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = KeyScope)]
pub enum Scope {
    /// Send, cancel, reschedule and retry messages.
    Send,
    /// Read messages, events and state.
    Read,
    /// Everything, keys and configuration included.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Send, Self::Read, Self::Admin];

    /// The word in SQL, JSON and documentation.
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

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == word)
            .ok_or_else(|| format!("`{word}` is not a scope; use send, read or admin"))
    }
}

/// A key in the clear: shown once when made, never stored.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Makes a key from 32 random bytes.
    pub fn from_bytes(random: [u8; 32]) -> Self {
        Self(format!("pr_{}", hex(&random)))
    }

    /// The text that goes after `Bearer`.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What is kept. A plain digest is enough: 256 random bits cannot be guessed, whatever the hash costs.
    pub fn hash(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
