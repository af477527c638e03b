//! The text of API keys: `pr_live_[CELL_]BODY` or `pr_test_[CELL_]BODY`.
//!
//! The body has 43 characters of base 62 (`0–9 A–Z a–z`) with 256 random bits, and 6 characters with the CRC-32 (as in
//! zip) of everything before them. Programs that search for leaked secrets recognise a key by its prefix, and rule out
//! other texts by the checksum. Keys of earlier versions are `pr_` and 64 hexadecimal digits, without a checksum.

use std::str::FromStr;

use sha2::{Digest, Sha256};

/// The digits of base 62, in the order of their values.
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// Number of base-62 digits for 256 bits.
const RANDOM_DIGITS: usize = 43;
/// Number of base-62 digits for 32 bits.
const CHECKSUM_DIGITS: usize = 6;
/// Number of hexadecimal digits in a key of an earlier version.
const OLD_DIGITS: usize = 64;
/// Maximum length of a cell's name.
const MAX_CELL: usize = 16;

/// Whether the messages of an API key are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyMode {
    /// Messages are sent.
    #[default]
    Live,
    /// Nothing is sent: the last hop is simulated.
    Test,
}

impl KeyMode {
    /// All modes.
    pub const ALL: [Self; 2] = [Self::Live, Self::Test];

    /// Returns the mode's name in SQL, JSON and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Test => "test",
        }
    }
}

impl FromStr for KeyMode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| format!("`{name}` is not a mode; use `live` or `test`"))
    }
}

/// The name of a cell: one of several separate installations behind a router, which chooses the cell by the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell(String);

/// A text that is not the name of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 16 lower-case letters and digits")]
pub struct InvalidCell;

impl FromStr for Cell {
    type Err = InvalidCell;

    fn from_str(name: &str) -> Result<Self, InvalidCell> {
        let is_valid = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if (1..=MAX_CELL).contains(&name.len()) && name.bytes().all(is_valid) {
            Ok(Self(name.to_owned()))
        } else {
            Err(InvalidCell)
        }
    }
}

/// An API key in plaintext. It is returned once, on creation, and never stored.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// Creates a key from 32 random bytes.
    pub fn new(mode: KeyMode, cell: Option<&Cell>, random: [u8; 32]) -> Self {
        let mut text = format!("pr_{}_", mode.as_str());
        if let Some(Cell(name)) = cell {
            text.push_str(name);
            text.push('_');
        }
        push_base62(&mut text, &random, RANDOM_DIGITS);
        let checksum = crc32(text.as_bytes());
        push_base62(&mut text, &checksum.to_be_bytes(), CHECKSUM_DIGITS);
        Self(text)
    }

    /// Returns the plaintext key, which follows `Bearer` in the `Authorization` header.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Returns the hash that is stored for a key. A plain digest is enough, because 256 random bits cannot be guessed.
    pub fn hash(text: &str) -> [u8; 32] {
        Sha256::digest(text.as_bytes()).into()
    }

    /// Returns whether a text can be a key: a key with a mode has a valid checksum; keys of earlier versions have none.
    pub fn is_possible(text: &str) -> bool {
        let Some(rest) = text.strip_prefix("pr_live_").or_else(|| text.strip_prefix("pr_test_")) else {
            return text.strip_prefix("pr_").is_some_and(is_old_body);
        };
        let (cell, body) = rest.rsplit_once('_').map_or((None, rest), |(cell, body)| (Some(cell), body));
        if cell.is_some_and(|name| name.parse::<Cell>().is_err())
            || body.len() != RANDOM_DIGITS + CHECKSUM_DIGITS
            || !body.bytes().all(|byte| byte.is_ascii_alphanumeric())
        {
            return false;
        }
        let (checked, checksum) = text.split_at(text.len() - CHECKSUM_DIGITS);
        let mut expected = String::with_capacity(CHECKSUM_DIGITS);
        push_base62(&mut expected, &crc32(checked.as_bytes()).to_be_bytes(), CHECKSUM_DIGITS);
        checksum == expected
    }
}

fn is_old_body(body: &str) -> bool {
    body.len() == OLD_DIGITS && body.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Appends a big-endian number as `digits` digits of base 62, with leading zeros.
fn push_base62(text: &mut String, number: &[u8], digits: usize) {
    let mut number = number.to_vec();
    let mut reversed = Vec::with_capacity(digits);
    for _ in 0..digits {
        let mut remainder = 0_u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            // Below 256, because the remainder is below 62.
            *byte = u8::try_from(value / 62).unwrap_or(u8::MAX);
            remainder = value % 62;
        }
        reversed.push(DIGITS.get(remainder as usize).copied().unwrap_or(b'0'));
    }
    text.extend(reversed.iter().rev().copied().map(char::from));
}

/// Returns the CRC-32 of zip, PNG and Ethernet (reflected polynomial 0xEDB88320).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksum_is_the_crc32_of_zip() {
        assert_eq!((crc32(b""), crc32(b"123456789")), (0, 0xCBF4_3926));
    }

    #[test]
    fn numbers_are_written_in_base_62() {
        let base62 = |number: u32| {
            let mut text = String::new();
            push_base62(&mut text, &number.to_be_bytes(), CHECKSUM_DIGITS);
            text
        };
        assert_eq!([0, 61, 62, u32::MAX].map(base62), ["000000", "00000z", "000010", "4gfFC3"]);
    }

    #[test]
    fn key_has_its_mode_and_its_cell() {
        let cell: Cell = "eu1".parse().unwrap();
        let text = |mode, cell| Secret::new(mode, cell, [0; 32]).expose().to_owned();
        let zeros = "0".repeat(RANDOM_DIGITS);
        assert_eq!(text(KeyMode::Live, None), format!("pr_live_{zeros}2TZDF5"));
        assert!(text(KeyMode::Live, Some(&cell)).starts_with(&format!("pr_live_eu1_{zeros}")));
        assert!(text(KeyMode::Test, None).starts_with(&format!("pr_test_{zeros}")));
        let longest = Secret::new(KeyMode::Test, Some(&"a".repeat(16).parse().unwrap()), [0xff; 32]);
        assert!(Secret::is_possible(longest.expose()));
    }

    #[test]
    fn cell_is_a_short_word() {
        for name in ["", "EU", "eu-1", "eu_1", "aaaaaaaaaaaaaaaaa", "ü"] {
            assert_eq!(name.parse::<Cell>(), Err(InvalidCell), "{name}");
        }
        assert!("eu1".parse::<Cell>().is_ok() && "a".repeat(16).parse::<Cell>().is_ok());
    }

    #[test]
    fn keys_of_earlier_versions_have_no_checksum() {
        assert!(Secret::is_possible(&format!("pr_{}", "0a".repeat(32))));
        let shapes = [format!("pr_{}", "0a".repeat(31)), format!("pr_{}", "0g".repeat(32)), "0a".repeat(32)];
        for text in shapes.iter().map(String::as_str).chain(["", "pr_", "pr_wrong"]) {
            assert!(!Secret::is_possible(text), "{text}");
        }
        for text in ["pr_live_", "pr_test_x", "pr_live_EU_0000", "pr_live__0000"] {
            assert!(!Secret::is_possible(text), "{text}");
        }
    }

    proptest! {
        /// Every change of one character is noticed.
        #[test]
        fn changed_keys_are_not_possible(random: [u8; 32], cell in "[a-z0-9]{0,16}", at in 0_usize..80, to in "[0-9A-Za-z_]") {
            let secret = Secret::new(KeyMode::Live, cell.parse().ok().as_ref(), random);
            let text = secret.expose();
            prop_assert!(Secret::is_possible(text));
            let at = "pr_live_".len() + at % (text.len() - "pr_live_".len());
            let changed = format!("{}{to}{}", &text[..at], &text[at + 1..]);
            prop_assert!(changed == text || !Secret::is_possible(&changed), "{text} {changed}");
        }

        /// No text makes the check panic.
        #[test]
        fn any_text_is_checked(text in "(pr_(live|test)_)?\\PC*") {
            Secret::is_possible(&text);
        }
    }
}
