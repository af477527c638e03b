//! Return paths: `b+TOKEN@return-domain`, by which a mail that comes back says which of ours it is about, and by which
//! nobody else can (RFC 5321 §3.6.3 calls the reverse path; signing it is as old as BATV).
//!
//! A token names a message, one of its recipients where no other goes the same way, and the day on which it was made; an
//! HMAC-SHA-256 of that, cut to 80 bits (RFC 2104 §5), shows that we made it. 30 octets are 48 letters of base32, so that
//! the part before the @ has 50 of the 64 that it may have. It reads the same in upper and lower case, since some servers
//! fold it. The same token is the envelope id of RFC 3461.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::address::Address;
use super::id::MessageId;
use super::keyring::{Keyring, Purpose};

/// Before every token in an address.
const PREFIX: &str = "b+";
/// Octets of a token that are signed: message, position, day.
const SIGNED: usize = 20;
/// Octets of a token.
const OCTETS: usize = 30;
/// Letters of a token.
const LETTERS: usize = OCTETS * 8 / 5;
/// Base32 (RFC 4648 §6) in lower case.
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
/// Stands for no recipient.
const NOBODY: u16 = u16::MAX;
/// Tokens that are looked at in one text: whoever writes more of them means no good.
const LOOKED_AT: usize = 8;

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The mail that it was made for.
    pub message: MessageId,
    /// Which of the message's recipients that mail was for, counted from 0; none where others of the message go the same way.
    pub position: Option<u16>,
}

/// Why there is no token to believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum TokenFault {
    /// There is none.
    #[error("there is no return path of ours")]
    Missing,
    /// We did not make it, or with a secret that is no longer configured.
    #[error("its return path was not signed by us")]
    Forged,
    /// We made it, too long ago.
    #[error("its return path has expired")]
    Expired,
}

/// Makes and reads return paths.
#[derive(Clone)]
pub struct ReturnPaths {
    keyring: Keyring,
    domain: String,
    /// For how many days a token is good.
    days: i64,
}

impl fmt::Debug for ReturnPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReturnPaths({})", self.domain)
    }
}

impl ReturnPaths {
    /// Of this domain, as A-labels in lower case. A token is good for `lifetime`, counted in days.
    pub fn new(keyring: Keyring, domain: impl Into<String>, lifetime: Duration) -> Self {
        let days = i64::try_from(lifetime.as_secs().div_ceil(86_400)).unwrap_or(i64::MAX);
        Self { keyring, domain: domain.into(), days }
    }

    /// The domain.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The return path with this token; none where the domain is none.
    pub fn address(&self, token: &str) -> Option<Address> {
        format!("{PREFIX}{token}@{}", self.domain).parse().ok()
    }

    /// A token that is made now: 48 letters and digits.
    pub fn token(&self, Token { message, position }: Token, now: DateTime<Utc>) -> String {
        let mut octets = Vec::with_capacity(OCTETS);
        octets.extend_from_slice(message.0.as_bytes());
        octets.extend_from_slice(&position.unwrap_or(NOBODY).to_be_bytes());
        octets.extend_from_slice(&u16::try_from(day(now)).unwrap_or(0).to_be_bytes());
        let mac = self.keyring.mac(Purpose::ReturnPath, &octets);
        octets.extend(mac.into_iter().take(OCTETS - SIGNED));
        base32(&octets)
    }

    /// Reads an address that is to be a return path and nothing else, as it stands in RCPT.
    pub fn read(&self, address: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let (local, domain) = address.rsplit_once('@').ok_or(TokenFault::Missing)?;
        let (prefix, token) = local.split_at_checked(PREFIX.len()).ok_or(TokenFault::Missing)?;
        let is_ours = prefix.eq_ignore_ascii_case(PREFIX) && domain.eq_ignore_ascii_case(&self.domain);
        if is_ours && is_token(token) { self.verify(token, now) } else { Err(TokenFault::Missing) }
    }

    /// Looks for a token of ours in a text: an address in any writing, an envelope id. The first that is good counts.
    pub fn find(&self, text: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let mut worst = TokenFault::Missing;
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| is_token(word));
        for word in words.take(LOOKED_AT) {
            match self.verify(word, now) {
                Ok(token) => return Ok(token),
                Err(fault) => worst = worst.max(fault),
            }
        }
        Err(worst)
    }

    fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Token, TokenFault> {
        let octets = from_base32(token).ok_or(TokenFault::Forged)?;
        let (signed, mac) = octets.split_at(SIGNED);
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
        Ok(Token { message: MessageId(message), position: (position != NOBODY).then_some(position) })
    }
}

/// Days since 1970.
fn day(at: DateTime<Utc>) -> i64 {
    at.timestamp().div_euclid(86_400)
}

/// Whether a word has the form of a token.
fn is_token(word: &str) -> bool {
    word.len() == LETTERS && word.bytes().all(|byte| ALPHABET.contains(&byte.to_ascii_lowercase()))
}

/// Five octets at a time, so that every letter counts and there is one way to write a token.
fn base32(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len() * 8 / 5);
    for five in octets.chunks_exact(5) {
        let bits = five.iter().fold(0_u64, |bits, octet| bits << 8 | u64::from(*octet));
        for place in (0..8).rev() {
            let index = usize::try_from(bits >> (place * 5) & 31).unwrap_or(0);
            text.push(char::from(ALPHABET[index]));
        }
    }
    text
}

fn from_base32(text: &str) -> Option<[u8; OCTETS]> {
    let mut octets = [0; OCTETS];
    for (eight, five) in text.as_bytes().chunks_exact(8).zip(octets.chunks_exact_mut(5)) {
        let mut bits = 0_u64;
        for letter in eight {
            let index = ALPHABET.iter().position(|known| *known == letter.to_ascii_lowercase())?;
            bits = bits << 5 | u64::try_from(index).ok()?;
        }
        five.copy_from_slice(bits.to_be_bytes().get(3..)?);
    }
    Some(octets)
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

    fn some(position: Option<u16>) -> Token {
        Token { message: MessageId::new(now()), position }
    }

    #[test]
    fn a_return_path_reads_back_in_any_case_and_fits() {
        for position in [None, Some(0), Some(999)] {
            let (paths, token) = (paths(&["one"]), some(position));
            let address = paths.address(&paths.token(token, now())).unwrap();
            assert_eq!(address.local().len(), 50);
            let written = address.to_string();
            assert_eq!(paths.read(&written, now()), Ok(token));
            assert_eq!(paths.read(&written.to_uppercase(), now()), Ok(token));
            assert_eq!(paths.find(&format!("rfc822;<{written}>"), now()), Ok(token));
            assert_eq!(paths.find(&paths.token(token, now()), now()), Ok(token));
        }
    }

    #[test]
    fn it_is_good_for_its_time_and_no_longer() {
        let (paths, token) = (paths(&["one"]), some(Some(1)));
        let written = paths.address(&paths.token(token, now())).unwrap().to_string();
        let days = |days: u64| now() + TimeDelta::days(i64::try_from(days).unwrap());
        assert_eq!(paths.read(&written, days(DAYS)), Ok(token));
        assert_eq!(paths.read(&written, days(DAYS + 1)), Err(TokenFault::Expired));
        assert_eq!(paths.find(&written, days(DAYS + 1)), Err(TokenFault::Expired));
    }

    #[test]
    fn an_earlier_secret_is_good_and_a_strange_one_is_not() {
        let token = some(None);
        let written = format!("b+{}@return.acme.test", paths(&["one"]).token(token, now()));
        assert_eq!(paths(&["two", "one"]).read(&written, now()), Ok(token));
        assert_eq!(paths(&["two"]).read(&written, now()), Err(TokenFault::Forged));
    }

    #[test]
    fn another_domain_prefix_or_form_is_no_return_path() {
        let paths = paths(&["one"]);
        let token = paths.token(some(None), now());
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
            assert_eq!(paths.read(&address, now()), Err(TokenFault::Missing), "{address}");
        }
    }

    #[test]
    fn the_first_good_one_counts_and_many_are_not_looked_at() {
        let (paths, token) = (paths(&["one"]), some(Some(3)));
        let (good, bad) = (paths.token(token, now()), "a".repeat(LETTERS));
        assert_eq!(paths.find(&format!("{bad} {good}"), now()), Ok(token));
        assert_eq!(
            paths.find(&format!("{}{good}", format!("{bad} ").repeat(LOOKED_AT)), now()),
            Err(TokenFault::Forged)
        );
        assert_eq!(paths.find("nothing here", now()), Err(TokenFault::Missing));
    }

    proptest! {
        #[test]
        fn no_altered_token_is_taken(place in 0..LETTERS, letter in 0_usize..32, position in any::<Option<u16>>()) {
            let (paths, token) = (paths(&["one"]), some(position.filter(|position| *position != NOBODY)));
            let mut letters = paths.token(token, now()).into_bytes();
            let altered = letters[place] != ALPHABET[letter];
            letters[place] = ALPHABET[letter];
            let text = format!("b+{}@return.acme.test", String::from_utf8(letters).unwrap());
            prop_assert_eq!(paths.read(&text, now()), if altered { Err(TokenFault::Forged) } else { Ok(token) });
        }

        #[test]
        fn no_token_of_chance_is_taken(octets in prop::array::uniform30(any::<u8>())) {
            let text = format!("b+{}@return.acme.test", base32(&octets));
            prop_assert_eq!(paths(&["one"]).read(&text, now()), Err(TokenFault::Forged));
            prop_assert_eq!(from_base32(&base32(&octets)), Some(octets));
        }

        #[test]
        fn whatever_the_text_there_is_an_answer(text in any::<String>()) {
            let paths = paths(&["one"]);
            prop_assert!(paths.find(&text, now()).is_err());
            prop_assert!(paths.read(&text, now()).is_err());
        }
    }
}
