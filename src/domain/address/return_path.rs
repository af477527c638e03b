//! Return paths: `b+TOKEN@return-domain`, the address to which servers send bounces (the reverse-path of RFC 5321
//! §3.6.3). The return path identifies the message that a bounce is about, and is signed as in BATV, so that others
//! cannot forge it.
//!
//! A token contains the message id, the recipient's position if the envelope has only one recipient, and the day on
//! which the token was created. An HMAC-SHA-256 of these, truncated to 80 bits (RFC 2104 §5), proves that Postrider
//! created it. The 30 bytes of a token are 48 letters of base32, so the local part has 50 of the 64 characters allowed.
//! A token is case-insensitive, because some servers change case. The same token is the envelope id of RFC 3461.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Address;
use crate::domain::id::MessageId;
use crate::domain::installation::keyring::{Keyring, Purpose};

/// The prefix of every token in an address.
const PREFIX: &str = "b+";
/// The length of a token's signed part, in bytes: message, position and day.
const SIGNED_BYTES: usize = 20;
/// The length of a token, in bytes.
const TOKEN_BYTES: usize = 30;
/// The length of a token in base32, in letters.
const LETTERS: usize = TOKEN_BYTES * 8 / 5;
/// Base32 (RFC 4648 §6) in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// The position in a token that names no recipient.
const NO_POSITION: u16 = u16::MAX;
/// The maximum number of tokens in one text that are verified. A text with more of them is an attack.
const MAX_CANDIDATES: usize = 8;

/// The content of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The message.
    pub message: MessageId,
    /// The recipient's position in the message, counted from 0; `None` if the envelope has several recipients.
    pub position: Option<u16>,
}

/// The reason why no valid token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TokenFault {
    /// There is no token.
    #[error("there is no return path of this installation")]
    Missing,
    /// The token is not signed by this installation, or with a secret that is not configured any more.
    #[error("its return path is not signed by this installation")]
    Forged,
    /// The token is older than its lifetime.
    #[error("its return path has expired")]
    Expired,
}

/// Creates and verifies return paths.
#[derive(Clone)]
pub struct ReturnPaths {
    keyring: Keyring,
    domain: String,
    /// How many days a token is valid.
    days: i64,
}

impl fmt::Debug for ReturnPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReturnPaths({})", self.domain)
    }
}

impl ReturnPaths {
    /// Creates return paths at this domain, given as A-labels in lower case. A token is valid for `lifetime`, rounded
    /// up to days.
    pub fn new(keyring: Keyring, domain: impl Into<String>, lifetime: Duration) -> Self {
        let days = i64::try_from(lifetime.as_secs().div_ceil(86_400)).unwrap_or(i64::MAX);
        Self { keyring, domain: domain.into(), days }
    }

    /// Returns the return paths' domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Returns the return path with this token; `None` if the domain is not valid.
    pub fn address(&self, token: &str) -> Option<Address> {
        format!("{PREFIX}{token}@{}", self.domain).parse().ok()
    }

    /// Creates a token: 48 letters and digits.
    pub fn token(&self, Token { message, position }: Token, now: DateTime<Utc>) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_BYTES);
        bytes.extend_from_slice(message.0.as_bytes());
        bytes.extend_from_slice(&position.unwrap_or(NO_POSITION).to_be_bytes());
        bytes.extend_from_slice(&u16::try_from(day(now)).unwrap_or(0).to_be_bytes());
        let mac = self.keyring.mac(Purpose::ReturnPath, &bytes);
        bytes.extend(mac.into_iter().take(TOKEN_BYTES - SIGNED_BYTES));
        base32(&bytes)
    }

    /// Verifies a return path, as given in RCPT.
    pub fn verify_address(&self, address: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let (local, domain) = address.rsplit_once('@').ok_or(TokenFault::Missing)?;
        let (prefix, token) = local.split_at_checked(PREFIX.len()).ok_or(TokenFault::Missing)?;
        let has_form = prefix.eq_ignore_ascii_case(PREFIX) && domain.eq_ignore_ascii_case(&self.domain);
        if has_form && is_token(token) { self.verify(token, now) } else { Err(TokenFault::Missing) }
    }

    /// Finds the first valid token in a text, such as an address in any notation or an envelope id.
    pub fn find(&self, text: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let mut worst = TokenFault::Missing;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_token(word));
        for word in words.take(MAX_CANDIDATES) {
            match self.verify(word, now) {
                Ok(token) => return Ok(token),
                Err(fault) => worst = worst.max(fault),
            }
        }
        Err(worst)
    }

    fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let bytes = from_base32(token).ok_or(TokenFault::Forged)?;
        let (signed, mac) = bytes.split_at(SIGNED_BYTES);
        if !self.keyring.is_mac(Purpose::ReturnPath, signed, mac) {
            return Err(TokenFault::Forged);
        }
        let (message, rest) = signed.split_at(16);
        let [p, q, d, e] = *rest else { return Err(TokenFault::Forged) };
        let (position, made) = (u16::from_be_bytes([p, q]), u16::from_be_bytes([d, e]));
        if day(now) - i64::from(made) > self.days {
            return Err(TokenFault::Expired);
        }
        let message = Uuid::from_slice(message).map_err(|_| TokenFault::Forged)?;
        Ok(Token { message: MessageId(message), position: (position != NO_POSITION).then_some(position) })
    }
}

/// Returns the days since 1970.
fn day(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(86_400)
}

/// Returns whether a word has the form of a token.
fn is_token(word: &str) -> bool {
    word.len() == LETTERS && word.bytes().all(|byte| ALPHABET.contains(&byte.to_ascii_lowercase()))
}

/// Encodes bytes in groups of five, so that every letter is significant and a token has exactly one encoding.
fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5);
    for five in bytes.chunks_exact(5) {
        let bits = five.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for place in (0..8).rev() {
            let index = usize::try_from(bits >> (place * 5) & 31).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

fn from_base32(text: &str) -> Option<[u8; TOKEN_BYTES]> {
    let mut bytes = [0; TOKEN_BYTES];
    for (eight, five) in text.as_bytes().chunks_exact(8).zip(bytes.chunks_exact_mut(5)) {
        let mut bits = 0_u64;
        for letter in eight {
            let index = ALPHABET.iter().position(|known| *known == letter.to_ascii_lowercase())?;
            bits = bits << 5 | u64::try_from(index).ok()?;
        }
        five.copy_from_slice(bits.to_be_bytes().get(3..)?);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    const DAYS: u64 = 60;

    fn paths(secrets: &[&str]) -> ReturnPaths {
        let keyring = Keyring::new(secrets[0], secrets[1..].iter().copied());
        ReturnPaths::new(keyring, "return.acme.test", Duration::from_hours(24 * DAYS))
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp(1_795_435_200, 0).unwrap()
    }

    fn token_at(position: Option<u16>) -> Token {
        Token { message: MessageId::new(now()), position }
    }

    #[test]
    fn return_path_round_trips_in_any_case() {
        for position in [None, Some(0), Some(999)] {
            let (paths, token) = (paths(&["one"]), token_at(position));
            let address = paths.address(&paths.token(token, now())).unwrap();
            assert_eq!(address.local().len(), 50);
            let written = address.to_string();
            assert_eq!(paths.verify_address(&written, now()), Ok(token));
            assert_eq!(paths.verify_address(&written.to_uppercase(), now()), Ok(token));
            assert_eq!(paths.find(&format!("rfc822;<{written}>"), now()), Ok(token));
            assert_eq!(paths.find(&paths.token(token, now()), now()), Ok(token));
        }
    }

    #[test]
    fn token_expires_after_its_lifetime() {
        let (paths, token) = (paths(&["one"]), token_at(Some(1)));
        let written = paths.address(&paths.token(token, now())).unwrap().to_string();
        let days = |days: u64| now() + TimeDelta::days(i64::try_from(days).unwrap());
        assert_eq!(paths.verify_address(&written, days(DAYS)), Ok(token));
        assert_eq!(paths.verify_address(&written, days(DAYS + 1)), Err(TokenFault::Expired));
        assert_eq!(paths.find(&written, days(DAYS + 1)), Err(TokenFault::Expired));
    }

    #[test]
    fn previous_secret_still_verifies() {
        let token = token_at(None);
        let written = format!("b+{}@return.acme.test", paths(&["one"]).token(token, now()));
        assert_eq!(paths(&["two", "one"]).verify_address(&written, now()), Ok(token));
        assert_eq!(paths(&["two"]).verify_address(&written, now()), Err(TokenFault::Forged));
    }

    #[test]
    fn other_domain_prefix_or_form_is_rejected() {
        let paths = paths(&["one"]);
        let token = paths.token(token_at(None), now());
        for address in [
            format!("b+{token}@acme.test"),
            format!("c+{token}@return.acme.test"),
            format!("b+{token}a@return.acme.test"),
            format!("{token}@return.acme.test"),
            format!("b+{token}"),
            "b+@return.acme.test".into(),
            "é@return.acme.test".into(),
            String::new(),
        ] {
            assert_eq!(paths.verify_address(&address, now()), Err(TokenFault::Missing), "{address}");
        }
    }

    #[test]
    fn only_the_first_few_tokens_are_verified() {
        let (paths, token) = (paths(&["one"]), token_at(Some(3)));
        let (good, bad) = (paths.token(token, now()), "a".repeat(LETTERS));
        assert_eq!(paths.find(&format!("{bad} {good}"), now()), Ok(token));
        assert_eq!(
            paths.find(&format!("{}{good}", format!("{bad} ").repeat(MAX_CANDIDATES)), now()),
            Err(TokenFault::Forged)
        );
        assert_eq!(paths.find("nothing here", now()), Err(TokenFault::Missing));
    }

    proptest! {
        #[test]
        fn altered_token_is_rejected(at in 0..LETTERS, letter in 0_usize..32, position in any::<Option<u16>>()) {
            let (paths, token) = (paths(&["one"]), token_at(position.filter(|position| *position != NO_POSITION)));
            let mut letters = paths.token(token, now()).into_bytes();
            let altered = letters[at] != ALPHABET[letter];
            letters[at] = ALPHABET[letter];
            let text = format!("b+{}@return.acme.test", String::from_utf8(letters).unwrap());
            prop_assert_eq!(paths.verify_address(&text, now()), if altered { Err(TokenFault::Forged) } else { Ok(token) });
        }

        #[test]
        fn random_token_is_rejected(bytes in prop::array::uniform30(any::<u8>())) {
            let text = format!("b+{}@return.acme.test", base32(&bytes));
            prop_assert_eq!(paths(&["one"]).verify_address(&text, now()), Err(TokenFault::Forged));
            prop_assert_eq!(from_base32(&base32(&bytes)), Some(bytes));
        }

        #[test]
        fn any_other_text_is_rejected(text in any::<String>()) {
            let paths = paths(&["one"]);
            prop_assert!(paths.find(&text, now()).is_err());
            prop_assert!(paths.verify_address(&text, now()).is_err());
        }
    }
}
