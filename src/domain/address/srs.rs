//! The Sender Rewriting Scheme: the envelope sender of a message that is passed on is replaced by an address of this installation, so that
//! SPF passes at the next server. Bounces to such an address are passed on to the original sender, which the address contains.
//!
//! `SRS0=HASH=TT=example.test=ann@srs.acme.test` stands for `ann@example.test`. If another server has already rewritten the sender, its
//! address is not nested as a whole: `SRS1=HASH=other.test==HASH=TT=example.test=ann@srs.acme.test` stands for the SRS0 address of
//! `other.test`. The hash is an HMAC-SHA-256, truncated to 40 bits: only this installation can create an address that it accepts, and to
//! guess one takes 2^39 attempts over SMTP on average. TT is the number of days since 1970, modulo 1,024, in base32. Letter case does
//! not matter, because some servers change it.

use std::fmt;

use chrono::{DateTime, Utc};

use super::{Address, MAX_LOCAL};
use crate::domain::installation::keyring::{Keyring, Purpose};

/// Number of days for which bounces to a rewritten sender are accepted.
const DAYS: i64 = 21;
/// Number of days after which TT has the same value again: two characters of base32.
const PERIOD: i64 = 1_024;
/// Length of a hash, in characters of base32: 40 bits.
const HASH: usize = 8;
/// Base32 (RFC 4648 §6) in upper case.
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// Why an address is not a rewritten sender for which bounces are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SrsFault {
    /// It has another form or another domain.
    #[error("it is not a rewritten sender of this installation")]
    Missing,
    /// Its hash is wrong.
    #[error("this installation did not create it")]
    Forged,
    /// It is too old.
    #[error("it has expired")]
    Expired,
}

/// Rewrites senders, and verifies rewritten ones.
#[derive(Clone)]
pub struct Srs {
    keyring: Keyring,
    domain: String,
}

impl fmt::Debug for Srs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Srs({})", self.domain)
    }
}

impl Srs {
    /// Creates a rewriter whose addresses are in this domain, given as A-labels in lower case.
    pub fn new(keyring: Keyring, domain: impl Into<String>) -> Self {
        Self { keyring, domain: domain.into() }
    }

    /// Returns the rewritten sender. `None` if the sender must stay as it is: because its domain is that of this rewriter, because it has
    /// a quoted local part or an address literal, or because the rewritten local part would be too long.
    pub fn rewrite(&self, sender: &Address, now: DateTime<Utc>) -> Option<Address> {
        let (local, domain) = (sender.local(), sender.domain());
        if domain == self.domain || local.contains('"') || domain.starts_with('[') {
            return None;
        }
        let rewritten = if let Some(rest) = strip_tag(local, "SRS0") {
            self.with_hash("SRS1", &format!("{domain}={rest}"))
        } else if let Some((_, rest)) = strip_tag(local, "SRS1").and_then(|rest| rest.get(1..)?.split_once('=')) {
            self.with_hash("SRS1", rest)
        } else {
            self.with_hash("SRS0", &format!("{}={domain}={local}", day_text(day(now))))
        };
        (rewritten.len() <= MAX_LOCAL).then(|| format!("{rewritten}@{}", self.domain).parse().ok()).flatten()
    }

    /// Returns the original sender of a rewritten address, which is given as in RCPT.
    pub fn restore(&self, address: &str, now: DateTime<Utc>) -> Result<Address, SrsFault> {
        let (local, domain) = address.rsplit_once('@').ok_or(SrsFault::Missing)?;
        if !domain.eq_ignore_ascii_case(&self.domain) {
            return Err(SrsFault::Missing);
        }
        let (is_first, rest) = match (strip_tag(local, "SRS0"), strip_tag(local, "SRS1")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => return Err(SrsFault::Missing),
        };
        let (hash, hashed) = rest.get(1..).and_then(|rest| rest.split_once('=')).ok_or(SrsFault::Forged)?;
        if !self.is_hash(hash, if is_first { "SRS0" } else { "SRS1" }, hashed) {
            return Err(SrsFault::Forged);
        }
        let restored = if is_first {
            let (made, rest) = hashed.split_once('=').ok_or(SrsFault::Forged)?;
            let (domain, local) = rest.split_once('=').ok_or(SrsFault::Forged)?;
            let age = (day(now) - parse_day(made).ok_or(SrsFault::Forged)?).rem_euclid(PERIOD);
            // The address may be dated tomorrow, if the clock of the process that created it is ahead.
            if age > DAYS && age != PERIOD - 1 {
                return Err(SrsFault::Expired);
            }
            format!("{local}@{domain}")
        } else {
            // The separator after the tag belongs to the other server's address.
            let (domain, rest) = hashed.split_once('=').ok_or(SrsFault::Forged)?;
            format!("SRS0{rest}@{domain}")
        };
        restored.parse().map_err(|_| SrsFault::Forged)
    }

    /// Returns whether an address has the form and the domain of a rewritten sender.
    pub fn has_form(&self, address: &str) -> bool {
        let Some((local, domain)) = address.rsplit_once('@') else { return false };
        let is_tagged = strip_tag(local, "SRS0").is_some() || strip_tag(local, "SRS1").is_some();
        is_tagged && domain.eq_ignore_ascii_case(&self.domain)
    }

    fn with_hash(&self, tag: &str, hashed: &str) -> String {
        let mac = self.keyring.mac(Purpose::Srs, &signed(tag, hashed));
        format!("{tag}={}={hashed}", base32(&mac))
    }

    fn is_hash(&self, given: &str, tag: &str, hashed: &str) -> bool {
        let given = given.to_ascii_uppercase();
        given.len() == HASH
            && self.keyring.macs(Purpose::Srs, &signed(tag, hashed)).any(|mac| is_equal(&base32(&mac), &given))
    }
}

/// Returns the rest of a local part after a tag. The rest begins with the separator that belongs to the tag.
fn strip_tag<'a>(local: &'a str, tag: &str) -> Option<&'a str> {
    let (start, rest) = local.split_at_checked(tag.len())?;
    (start.eq_ignore_ascii_case(tag) && rest.starts_with(['=', '+', '-'])).then_some(rest)
}

fn signed(tag: &str, hashed: &str) -> Vec<u8> {
    format!("{tag}={hashed}").to_lowercase().into_bytes()
}

/// Returns the days since 1970.
fn day(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(86_400)
}

fn day_text(day: i64) -> String {
    let day = usize::try_from(day.rem_euclid(PERIOD)).unwrap_or(0);
    [day / 32, day % 32].iter().map(|digit| char::from(ALPHABET[digit % 32])).collect()
}

fn parse_day(text: &str) -> Option<i64> {
    let [first, second] = text.to_ascii_uppercase().into_bytes().try_into().ok()?;
    let digit = |byte| ALPHABET.iter().position(|one| *one == byte).and_then(|digit| i64::try_from(digit).ok());
    Some(digit(first)? * 32 + digit(second)?)
}

/// Returns the first 40 bits in base32.
fn base32(bytes: &[u8]) -> String {
    let bits = bytes.iter().take(5).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
    let digit = |n: usize| usize::try_from(bits >> (5 * n) & 31).unwrap_or(0);
    (0..HASH).rev().map(|n| char::from(ALPHABET[digit(n)])).collect()
}

/// Compares two texts in a time that depends only on their lengths.
fn is_equal(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn srs() -> Srs {
        Srs::new(Keyring::new("one", []), "srs.acme.test")
    }

    fn now() -> DateTime<Utc> {
        DateTime::from_timestamp_secs(1_790_000_000).unwrap()
    }

    fn rewritten(srs: &Srs, sender: &str) -> Option<String> {
        srs.rewrite(&sender.parse().unwrap(), now()).map(|address| address.to_string())
    }

    #[test]
    fn rewritten_sender_stands_for_the_sender() {
        let address = rewritten(&srs(), "Ann+x=y@example.test").unwrap();
        let [tag, hash, made, domain, rest]: [&str; 5] = address.splitn(5, '=').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!(
            (tag, hash.len(), made.len(), domain, rest),
            ("SRS0", 8, 2, "example.test", "Ann+x=y@srs.acme.test")
        );
        assert_eq!(srs().restore(&address, now()).unwrap().to_string(), "Ann+x=y@example.test");
        let lower = srs().restore(&address.to_lowercase(), now()).unwrap();
        assert_eq!(lower.to_string(), "ann+x=y@example.test", "some servers change the case");
        assert!(srs().has_form(&address) && !srs().has_form("SRS0x@srs.acme.test"));
    }

    #[test]
    fn sender_rewritten_by_others_is_wrapped_once() {
        let first = "SRS0+abcd=XY=example.test=ann@other.test";
        let second = rewritten(&srs(), first).unwrap();
        assert!(second.starts_with("SRS1=") && second.ends_with("=other.test=+abcd=XY=example.test=ann@srs.acme.test"));
        assert_eq!(srs().restore(&second, now()).unwrap().to_string(), first);
        let third = Srs::new(Keyring::new("two", []), "x.test");
        let address = rewritten(&third, &second).unwrap();
        assert_eq!(address.len(), second.len() - "srs.acme.test".len() + "x.test".len(), "it does not grow");
        assert_eq!(third.restore(&address, now()).unwrap().to_string(), first, "the second server is left out");
    }

    #[test]
    fn sender_that_cannot_be_rewritten_stays() {
        let long = format!("{}@example.test", "a".repeat(40));
        for sender in ["ann@srs.acme.test", "\"a b\"@example.test", "ann@[192.0.2.1]", &long] {
            assert_eq!(rewritten(&srs(), sender), None, "{sender}");
        }
    }

    #[test]
    fn forged_and_old_addresses_are_refused() {
        let address = rewritten(&srs(), "ann@example.test").unwrap();
        let restore = |address: &str, at| srs().restore(address, at);
        let days = |count| now() + TimeDelta::days(count);
        assert!(restore(&address, days(21)).is_ok() && restore(&address, days(-1)).is_ok());
        assert_eq!(restore(&address, days(22)), Err(SrsFault::Expired));
        assert_eq!(restore(&address.replace("=ann@", "=bob@"), now()), Err(SrsFault::Forged));
        assert_eq!(restore(&address.replace("SRS0", "SRS1"), now()), Err(SrsFault::Forged));
        for forged in [
            "SRS0=x@srs.acme.test",
            "SRS0=@srs.acme.test",
            "SRS0=AAAAAAAA=AA=b.test=c@srs.acme.test",
            "SRS1===@srs.acme.test",
        ] {
            assert_eq!(restore(forged, now()), Err(SrsFault::Forged), "{forged}");
        }
        for other in ["ann@srs.acme.test", "SRS0=x@acme.test", "SRS0", "", "SRS0x=1@srs.acme.test"] {
            assert_eq!(restore(other, now()), Err(SrsFault::Missing), "{other}");
        }
        let other = Srs::new(Keyring::new("two", []), "srs.acme.test");
        assert_eq!(other.restore(&address, now()), Err(SrsFault::Forged));
        let rotated = Srs::new(Keyring::new("two", ["one"]), "srs.acme.test");
        assert!(rotated.restore(&address, now()).is_ok(), "an earlier secret still counts");
    }

    proptest! {
        #[test]
        fn every_sender_comes_back(local in "[a-zA-Z0-9+=_-]{1,20}", domain in "[a-z]{1,10}\\.test", days in 0i64..=21) {
            let sender: Address = format!("{local}@{domain}").parse().unwrap();
            if let Some(address) = srs().rewrite(&sender, now()) {
                let text = address.to_string();
                let restored = srs().restore(&text, now() + TimeDelta::days(days)).unwrap();
                // A sender that starts with SRS1 by chance loses the part where a server's hash would be.
                if !local.to_uppercase().starts_with("SRS1") {
                    prop_assert_eq!(restored.to_string().to_lowercase(), sender.to_string().to_lowercase());
                }
            }
        }

        #[test]
        fn any_text_is_restored_or_refused(text in "\\PC{0,40}", tail in "[SRs01=+A-Z2-7.@-]{0,40}") {
            let _ = srs().restore(&text, now());
            let forged = srs().restore(&format!("SRS0={tail}@srs.acme.test"), now());
            prop_assert_eq!(forged, Err(SrsFault::Forged));
        }
    }
}
