//! API keys: format, scopes, limits, and hashes for lookup.

pub mod allowance;
mod format;
mod limits;

use std::fmt::Write as _;
use std::str::FromStr;

pub use format::{Cell, InvalidCell, KeyMode, Secret};
pub use limits::{BURST, KeyQuota, KeyRate, LimitOwner, RECIPIENTS_PER_DAY, REQUESTS_PER_SECOND};

/// A scope of an API key. `Admin` includes `Send` and `Read`, but not `Operator`; `Read` includes `Metadata`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = KeyScope)]
pub enum Scope {
    /// Send, cancel, reschedule and retry messages.
    Send,
    /// Read messages, events and state.
    Read,
    /// The same without the content of messages: their MIME form and their attachments.
    Metadata,
    /// All operations of the key's tenant, including API keys and configuration.
    Admin,
    /// Manage all tenants and their API keys. Includes no other scope.
    Operator,
}

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 5] = [Self::Send, Self::Read, Self::Metadata, Self::Admin, Self::Operator];

    /// Returns the scopes that include this one, beginning with itself.
    pub fn granted_by(self) -> &'static [Self] {
        match self {
            Self::Send => &[Self::Send, Self::Admin],
            Self::Read => &[Self::Read, Self::Admin],
            Self::Metadata => &[Self::Metadata, Self::Read, Self::Admin],
            Self::Admin => &[Self::Admin],
            Self::Operator => &[Self::Operator],
        }
    }

    /// Returns the scope's name in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Read => "read",
            Self::Metadata => "metadata",
            Self::Admin => "admin",
            Self::Operator => "operator",
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a scope; use `send`, `read`, `metadata`, `admin` or `operator`"))
    }
}

/// Formats bytes as lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
