//! Tokens of links that download one attachment without an API key, for a limited time. A token contains all data that
//! the download needs, with a signature, so a forged or expired token is rejected without a database query.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::domain::id::{MessageId, TenantId};
use crate::domain::installation::keyring::{Keyring, Purpose};

/// The format version, which is the first byte of a token.
const VERSION: u8 = 1;
/// The length of the signature, in bytes.
const MAC_BYTES: usize = 16;
/// The length of the version, the two ids, the index and the time, in bytes.
const DATA_BYTES: usize = 1 + 2 * 16 + 2 + 8;

/// The attachment that a link downloads, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttachmentLink {
    /// The message's tenant.
    pub tenant: TenantId,
    /// The message.
    pub message: MessageId,
    /// The attachment's index in the request, from 0.
    pub index: u16,
    /// The link does not work from this time on. Whole seconds.
    pub expires_at: DateTime<Utc>,
}

impl AttachmentLink {
    /// Creates the token.
    pub fn token(&self, ring: &Keyring) -> String {
        let mut data = Vec::with_capacity(DATA_BYTES + MAC_BYTES);
        data.push(VERSION);
        data.extend_from_slice(self.tenant.0.as_bytes());
        data.extend_from_slice(self.message.0.as_bytes());
        data.extend_from_slice(&self.index.to_be_bytes());
        data.extend_from_slice(&self.expires_at.timestamp().to_be_bytes());
        let mac = ring.mac(Purpose::AttachmentLink, &data);
        data.extend_from_slice(mac.get(..MAC_BYTES).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(data)
    }

    /// Verifies a token and returns its content; `None` if the signature is not valid, or the link has expired.
    pub fn verify(token: &str, ring: &Keyring, now: DateTime<Utc>) -> Option<Self> {
        // Longer tokens are not decoded.
        if token.len() > 2 * (DATA_BYTES + MAC_BYTES) {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (data, mac) = bytes.split_at_checked(DATA_BYTES)?;
        if mac.len() != MAC_BYTES || !ring.is_mac(Purpose::AttachmentLink, data, mac) {
            return None;
        }
        let id = |n: usize| Uuid::from_slice(data.get(1 + n * 16..1 + (n + 1) * 16)?).ok();
        let index = data.get(33..35)?.try_into().ok().map(u16::from_be_bytes)?;
        let seconds = data.get(35..43)?.try_into().ok().map(i64::from_be_bytes)?;
        let expires_at = DateTime::from_timestamp(seconds, 0)?;
        let link = Self { tenant: TenantId(id(0)?), message: MessageId(id(1)?), index, expires_at };
        (data.first() == Some(&VERSION) && now < expires_at).then_some(link)
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn link() -> (AttachmentLink, Keyring) {
        let expires_at = DateTime::UNIX_EPOCH + TimeDelta::hours(1);
        let message = MessageId(Uuid::from_u128(7));
        let link = AttachmentLink { tenant: TenantId(Uuid::from_u128(5)), message, index: 3, expires_at };
        (link, Keyring::new("a secret of the tests", []))
    }

    #[test]
    fn token_is_valid_until_it_expires() {
        let (link, ring) = link();
        let token = link.token(&ring);
        assert_eq!(AttachmentLink::verify(&token, &ring, DateTime::UNIX_EPOCH), Some(link));
        let last = link.expires_at - TimeDelta::seconds(1);
        assert_eq!(AttachmentLink::verify(&token, &ring, last), Some(link));
        assert_eq!(AttachmentLink::verify(&token, &ring, link.expires_at), None);
    }

    #[test]
    fn token_with_any_other_bit_is_rejected() {
        let (link, ring) = link();
        let bytes = URL_SAFE_NO_PAD.decode(link.token(&ring)).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            let token = URL_SAFE_NO_PAD.encode(other);
            assert_eq!(AttachmentLink::verify(&token, &ring, DateTime::UNIX_EPOCH), None, "bit {bit}");
        }
        let other = Keyring::new("another secret of the tests", []);
        assert_eq!(AttachmentLink::verify(&link.token(&ring), &other, DateTime::UNIX_EPOCH), None);
        for token in ["", "x", "AAAA", &"A".repeat(1_000)] {
            assert_eq!(AttachmentLink::verify(token, &ring, DateTime::UNIX_EPOCH), None);
        }
    }
}
