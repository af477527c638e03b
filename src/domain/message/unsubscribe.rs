//! Links that unsubscribe a recipient from a stream: `List-Unsubscribe` (RFC 2369) with one click (RFC 8058).
//!
//! A link contains all data needed to unsubscribe, with a signature. So it works as long as the secret is configured,
//! even if the message is not stored any more, and a forged link is rejected without a database query. The link
//! contains the recipient's address, but everyone who has the message knows the address anyway.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use url::Url;
use uuid::Uuid;

use super::Header;
use crate::domain::address::Address;
use crate::domain::id::{MessageId, RecipientId, TenantId};
use crate::domain::installation::keyring::{Keyring, Purpose};

/// The header with the link.
const LINK: &str = "List-Unsubscribe";
/// The header that declares one-click POST.
const POST: &str = "List-Unsubscribe-Post";
/// The path of links below the public URL, before the token.
const PATH: &str = "/u/";

/// The format version, which is the first byte of a token.
const VERSION: u8 = 1;
/// The length of the signature, in bytes.
const MAC_BYTES: usize = 16;
/// The length of the version, the three ids and the length byte of the stream's name, in bytes.
const HEAD_BYTES: usize = 1 + 3 * 16 + 1;
/// The maximum length of a token, in characters: an address has up to 254 bytes, and a stream's name 64.
const MAX_TOKEN: usize = 600;

/// The content of an unsubscribe link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The message's tenant.
    pub tenant: TenantId,
    /// The message.
    pub message: MessageId,
    /// The recipient.
    pub recipient: RecipientId,
    /// The stream to unsubscribe from.
    pub stream: String,
    /// The recipient's address.
    pub address: Address,
}

/// Creates and verifies unsubscribe links.
#[derive(Debug, Clone)]
pub struct Links {
    base: String,
    ring: Keyring,
}

impl Links {
    /// Creates links below `public_url`.
    pub fn new(public_url: &Url, ring: Keyring) -> Self {
        Self { base: format!("{}{PATH}", public_url.as_str().trim_end_matches('/')), ring }
    }

    /// Returns the unsubscribe headers of a message to one recipient.
    pub fn headers(&self, ticket: &Ticket) -> [Header; 2] {
        let link = Header { name: LINK.into(), value: format!("<{}{}>", self.base, self.token(ticket)) };
        [link, Header { name: POST.into(), value: "List-Unsubscribe=One-Click".into() }]
    }

    /// Creates the token of a ticket. The same ticket gives the same token, so that every attempt sends the same bytes.
    pub fn token(&self, ticket: &Ticket) -> String {
        let mut data = vec![VERSION];
        for id in [ticket.tenant.0, ticket.message.0, ticket.recipient.0] {
            data.extend_from_slice(id.as_bytes());
        }
        // A stream's name has at most 64 bytes.
        data.push(u8::try_from(ticket.stream.len()).unwrap_or(u8::MAX));
        data.extend_from_slice(ticket.stream.as_bytes());
        data.extend_from_slice(ticket.address.to_string().as_bytes());
        let mac = self.ring.mac(Purpose::Unsubscribe, &data);
        data.extend_from_slice(mac.get(..MAC_BYTES).unwrap_or_default());
        URL_SAFE_NO_PAD.encode(data)
    }

    /// Verifies a token and returns its content; `None` if the signature is not valid.
    pub fn verify(&self, token: &str) -> Option<Ticket> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (data, mac) = bytes.split_at_checked(bytes.len().checked_sub(MAC_BYTES)?)?;
        if !self.ring.is_mac(Purpose::Unsubscribe, data, mac) {
            return None;
        }
        let (head, rest) = data.split_at_checked(HEAD_BYTES)?;
        let (version, ids) = head.split_first()?;
        let (stream, address) = rest.split_at_checked(usize::from(*head.last()?))?;
        let id = |n: usize| Uuid::from_slice(ids.get(n * 16..(n + 1) * 16)?).ok();
        (*version == VERSION).then_some(Ticket {
            tenant: TenantId(id(0)?),
            message: MessageId(id(1)?),
            recipient: RecipientId(id(2)?),
            stream: String::from_utf8(stream.to_vec()).ok()?,
            address: std::str::from_utf8(address).ok()?.parse().ok()?,
        })
    }
}

/// Returns whether the sender's headers already have an unsubscribe link, so that none is added.
pub fn has_link(headers: &[Header]) -> bool {
    headers.iter().any(|header| [LINK, POST].iter().any(|name| name.eq_ignore_ascii_case(&header.name)))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    fn links(secrets: &[&'static str]) -> Links {
        let ring = Keyring::new(secrets[0], secrets[1..].iter().copied());
        Links::new(&Url::parse("https://mail.acme.test/post/").unwrap(), ring)
    }

    fn ticket(stream: &str, address: &str) -> Ticket {
        Ticket {
            tenant: TenantId::DEFAULT,
            message: MessageId::new(DateTime::UNIX_EPOCH),
            recipient: RecipientId::new(DateTime::UNIX_EPOCH),
            stream: stream.into(),
            address: address.parse().unwrap(),
        }
    }

    #[test]
    fn token_is_valid_with_current_and_previous_secrets() {
        let (links, later, others) = (links(&["one"]), links(&["two", "one"]), links(&["three"]));
        let longest = format!("{}@{}.test", "l".repeat(64), "d".repeat(60));
        for (stream, address) in [("news", "ann@example.test"), ("n", "å@bücher.test"), (&*"s".repeat(64), &*longest)]
        {
            let ticket = ticket(stream, address);
            let token = links.token(&ticket);
            assert!(token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "{token}");
            assert_eq!(token, links.token(&ticket));
            assert_eq!(links.verify(&token), Some(ticket.clone()));
            assert_eq!(later.verify(&token), Some(ticket));
            assert_eq!(others.verify(&token), None);
        }
    }

    #[test]
    fn headers_follow_rfc_8058() {
        let links = links(&["one"]);
        let ticket = ticket("news", "ann@example.test");
        let [link, post] = links.headers(&ticket);
        assert_eq!(link.name, "List-Unsubscribe");
        assert_eq!(link.value, format!("<https://mail.acme.test/post/u/{}>", links.token(&ticket)));
        assert_eq!((&*post.name, &*post.value), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"));
        for (name, is_link) in [("list-unsubscribe", true), ("List-Unsubscribe-Post", true), ("List-Id", false)] {
            assert_eq!(has_link(&[Header { name: name.into(), value: "x".into() }]), is_link, "{name}");
        }
    }

    proptest! {
        #[test]
        fn foreign_token_is_rejected(token in "[A-Za-z0-9_-]{0,200}") {
            prop_assert_eq!(links(&["one"]).verify(&token), None);
        }

        #[test]
        fn altered_token_is_rejected(at in 0usize..200, bit in 0u8..8, cut in 0usize..100) {
            let links = links(&["one"]);
            let token = links.token(&ticket("news", "ann@example.test"));
            let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(links.verify(&URL_SAFE_NO_PAD.encode(&bytes)), None);
            let shorter = &token[..token.len() - 1 - cut];
            prop_assert_eq!(links.verify(shorter), None);
            prop_assert_eq!(links.verify(&format!("{token}A")), None);
        }
    }
}
