//! The service's secret and the keys derived from it, for encryption at rest and for signatures.
//!
//! The configuration has a current secret, and possibly previous ones. The current secret encrypts and signs; all
//! secrets decrypt and verify, so that a secret can be rotated without losing existing data. Each purpose has its own
//! key (the HMAC-SHA-256 of the purpose's label with the secret), so that a value made for one purpose is not valid for
//! another.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::{constant_time, hmac, pbkdf2};

/// The purpose of a derived key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// DKIM private keys at rest.
    DkimKey,
    /// Return paths (`b+TOKEN@…`).
    ReturnPath,
    /// List-Unsubscribe links.
    Unsubscribe,
    /// Secrets of webhook endpoints at rest.
    WebhookSecret,
    /// Links to attachments.
    AttachmentLink,
    /// Files with exported tenants.
    TenantFile,
    /// URLs of the servers of inbound routes at rest.
    RelayUrl,
    /// Rewritten senders of messages that are passed on (SRS).
    Srs,
    /// Keys of greylisting.
    Greylist,
}

impl Purpose {
    /// Returns the label from which the key is derived. A changed label would invalidate existing values.
    fn label(self) -> &'static [u8] {
        match self {
            Self::DkimKey => b"postrider dkim key at rest 1",
            Self::ReturnPath => b"postrider return path 1",
            Self::Unsubscribe => b"postrider unsubscribe 1",
            Self::WebhookSecret => b"postrider webhook secret at rest 1",
            Self::AttachmentLink => b"postrider attachment link 1",
            Self::TenantFile => b"postrider tenant file 1",
            Self::RelayUrl => b"postrider relay url at rest 1",
            Self::Srs => b"postrider srs 1",
            Self::Greylist => b"postrider greylist 1",
        }
    }
}

/// The length of the nonce before an encrypted text, in bytes.
const NONCE_BYTES: usize = 12;
/// The length of a derived key, in bytes.
const KEY_BYTES: usize = 32;
/// Rounds of PBKDF2: OWASP recommends 600,000 for HMAC-SHA-256.
const PASSPHRASE_ROUNDS: NonZeroU32 = match NonZeroU32::new(600_000) {
    Some(rounds) => rounds,
    None => NonZeroU32::MIN,
};

/// The reason why a text cannot be encrypted or decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// The text was altered or truncated, or is encrypted with a secret that is not configured.
    #[error("it is encrypted with another secret_key; configure the earlier one in previous_secret_keys")]
    OtherSecret,
    /// The cipher failed.
    #[error("encryption failed")]
    Cipher,
}

/// The configured secrets, the current one first.
#[derive(Clone)]
pub struct Keyring(Vec<Vec<u8>>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keyring({} secrets)", self.0.len())
    }
}

impl Keyring {
    /// Creates a keyring from the current secret and the previous ones.
    pub fn new<'a>(secret: &'a str, previous: impl IntoIterator<Item = &'a str>) -> Self {
        Self(std::iter::once(secret).chain(previous).map(|secret| secret.as_bytes().to_vec()).collect())
    }

    /// Creates a keyring whose secret is derived from a passphrase and a random salt with PBKDF2 (RFC 8018). Takes tenths of a
    /// second, so that passphrases cannot be guessed quickly.
    pub fn from_passphrase(passphrase: &str, salt: &[u8]) -> Self {
        let mut secret = vec![0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, PASSPHRASE_ROUNDS, salt, passphrase.as_bytes(), &mut secret);
        Self(vec![secret])
    }

    /// Returns the HMAC-SHA-256 of `data` with the current secret; callers may truncate it to 10 bytes (80 bits) or
    /// more.
    pub fn mac(&self, purpose: Purpose, data: &[u8]) -> [u8; 32] {
        self.keys(purpose).next().map(|key| mac(&key, data)).unwrap_or_default()
    }

    /// Returns the HMACs of `data` with each of the secrets, for a value that is truncated to less than 10 bytes because it has to
    /// be short. The caller compares in constant time, and must limit what a guess achieves.
    pub fn macs(&self, purpose: Purpose, data: &[u8]) -> impl Iterator<Item = [u8; 32]> {
        self.keys(purpose).map(move |key| mac(&key, data))
    }

    /// Returns whether `given` is the HMAC of `data` with one of the secrets, possibly truncated to 10 bytes or more.
    /// Compares in constant time.
    pub fn is_mac(&self, purpose: Purpose, data: &[u8], given: &[u8]) -> bool {
        given.len() >= 10
            && self.keys(purpose).any(|key| {
                let expected = mac(&key, data);
                let expected = expected.get(..given.len());
                expected.is_some_and(|expected| constant_time::verify_slices_are_equal(expected, given).is_ok())
            })
    }

    /// Encrypts with AES-256-GCM and the current secret. Returns a random nonce, followed by the encrypted text and its
    /// tag. `context` is not part of the result; it binds the text to its row, and decryption needs the same one.
    pub fn seal(&self, purpose: Purpose, context: &[u8], text: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let key = self.keys(purpose).next().ok_or(KeyringError::Cipher)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| KeyringError::Cipher)?;
        let mut encrypted = text.to_vec();
        let nonce =
            key.seal_in_place_append_tag(Aad::from(context), &mut encrypted).map_err(|_| KeyringError::Cipher)?;
        Ok([nonce.as_ref().as_slice(), &encrypted].concat())
    }

    /// Decrypts a text that was encrypted with one of the secrets.
    pub fn open(&self, purpose: Purpose, context: &[u8], encrypted: &[u8]) -> Result<Vec<u8>, KeyringError> {
        let (nonce, encrypted) = encrypted.split_at_checked(NONCE_BYTES).ok_or(KeyringError::OtherSecret)?;
        for key in self.keys(purpose) {
            let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(|_| KeyringError::Cipher)?;
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| KeyringError::OtherSecret)?;
            let mut text = encrypted.to_vec();
            if let Ok(text) = key.open_in_place(nonce, Aad::from(context), &mut text) {
                return Ok(text.to_vec());
            }
        }
        Err(KeyringError::OtherSecret)
    }

    fn keys(&self, purpose: Purpose) -> impl Iterator<Item = [u8; KEY_BYTES]> {
        self.0.iter().map(move |secret| mac(secret, purpose.label()))
    }
}

/// Returns the HMAC-SHA-256 (RFC 2104).
fn mac(key: &[u8], data: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data);
    tag.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(secrets: &[&str]) -> Keyring {
        Keyring::new(secrets[0], secrets[1..].iter().copied())
    }

    #[test]
    fn encrypted_text_is_decrypted_only_in_its_context() {
        let ring = ring(&["one"]);
        let encrypted = ring.seal(Purpose::DkimKey, b"acme.test", b"a key").unwrap();
        assert!(!encrypted.windows(5).any(|window| window == b"a key"));
        assert_eq!(ring.open(Purpose::DkimKey, b"acme.test", &encrypted).unwrap(), b"a key");
        assert_eq!(ring.open(Purpose::DkimKey, b"evil.test", &encrypted), Err(KeyringError::OtherSecret));
        assert_eq!(ring.open(Purpose::ReturnPath, b"acme.test", &encrypted), Err(KeyringError::OtherSecret));
        for cut in 0..encrypted.len() {
            assert_eq!(ring.open(Purpose::DkimKey, b"acme.test", &encrypted[..cut]), Err(KeyringError::OtherSecret));
        }
        assert_ne!(encrypted, ring.seal(Purpose::DkimKey, b"acme.test", b"a key").unwrap(), "a new nonce each time");
    }

    #[test]
    fn passphrase_decrypts_only_with_its_salt() {
        let ring = Keyring::from_passphrase("correct horse battery", b"salt");
        let encrypted = ring.seal(Purpose::TenantFile, b"1", b"a row").unwrap();
        let open = |passphrase, salt: &[u8]| {
            Keyring::from_passphrase(passphrase, salt).open(Purpose::TenantFile, b"1", &encrypted)
        };
        assert_eq!(open("correct horse battery", b"salt").unwrap(), b"a row");
        assert_eq!(open("correct horse batterz", b"salt"), Err(KeyringError::OtherSecret));
        assert_eq!(open("correct horse battery", b"other"), Err(KeyringError::OtherSecret));
    }

    #[test]
    fn previous_secret_still_decrypts_and_verifies() {
        let (before, after, other) = (ring(&["one"]), ring(&["two", "one"]), ring(&["three"]));
        let encrypted = before.seal(Purpose::DkimKey, b"", b"a key").unwrap();
        assert_eq!(after.open(Purpose::DkimKey, b"", &encrypted).unwrap(), b"a key");
        assert_eq!(other.open(Purpose::DkimKey, b"", &encrypted), Err(KeyringError::OtherSecret));
        let mac = before.mac(Purpose::ReturnPath, b"msg");
        assert!(after.is_mac(Purpose::ReturnPath, b"msg", &mac[..10]));
        assert!(!after.is_mac(Purpose::ReturnPath, b"msg", &mac[..9]), "too short");
        assert!(!after.is_mac(Purpose::Unsubscribe, b"msg", &mac));
        assert!(!after.is_mac(Purpose::ReturnPath, b"msh", &mac));
        assert!(!other.is_mac(Purpose::ReturnPath, b"msg", &mac));
        assert_ne!(after.mac(Purpose::ReturnPath, b"msg"), mac, "the current secret signs");
    }
}
