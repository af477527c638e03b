//! DKIM keys (RFC 6376, RFC 8463): generation, encryption at rest and DNS records. `mail::dkim` signs with them.
//!
//! A domain has a key of each algorithm, so that receivers without ed25519 support can verify RSA. A private key is in
//! plaintext only in memory: at rest it is encrypted and bound to its tenant, domain and selector.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{DkimKey, Ed25519Key, RsaKey, Sha256};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::domain::id::TenantId;
use crate::domain::installation::keyring::{Keyring, KeyringError, Purpose};

/// The signature algorithm of a key, with SHA-256.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(as = DkimAlgorithm)]
pub enum Algorithm {
    /// Ed25519 (RFC 8463): small and fast, but not supported by all receivers.
    Ed25519,
    /// RSA with 2048 bits (RFC 8301): supported by all receivers.
    Rsa,
}

impl Algorithm {
    /// All algorithms, in the order in which they sign.
    pub const ALL: [Self; 2] = [Self::Ed25519, Self::Rsa];

    /// Returns the algorithm's name in SQL, JSON, configuration and the `k=` tag of a record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ed25519 => "ed25519",
            Self::Rsa => "rsa",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Algorithm {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == word);
        found.ok_or_else(|| format!("`{word}` is not an algorithm; use `ed25519` or `rsa`"))
    }
}

/// The state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DkimKeyState)]
pub enum KeyState {
    /// The key starts to sign when a check finds its record in the DNS.
    Pending,
    /// The key signs.
    Active,
    /// The key no longer signs. Its record stays published for signed messages that are still in transit.
    Retiring,
}

impl FromStr for KeyState {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        match word {
            "pending" => Ok(Self::Pending),
            "active" => Ok(Self::Active),
            "retiring" => Ok(Self::Retiring),
            _ => Err(()),
        }
    }
}

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No secret is configured.
    #[error("secret_key (POSTRIDER_SECRET_KEY) is not set")]
    NoSecret,
    /// The key with this selector cannot be decrypted.
    #[error("DKIM key {selector} cannot be decrypted: {source}")]
    Undecryptable {
        /// The key's selector.
        selector: String,
        /// The cause.
        source: Box<KeyError>,
    },
    /// The key cannot be encrypted, or is encrypted with another secret.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// The decrypted bytes are not a key, or key generation failed.
    #[error("the {0} key cannot be used")]
    Crypto(Algorithm),
}

/// A newly generated key.
#[derive(Clone)]
pub struct NewKey {
    /// The key's algorithm.
    pub algorithm: Algorithm,
    /// The private key (PKCS #8).
    private: Vec<u8>,
    /// The public key, as [`record`] expects it.
    pub public: Vec<u8>,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKey({})", self.algorithm)
    }
}

impl NewKey {
    /// Generates a key. Do not call it on an async thread: an RSA key takes a tenth of a second.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Crypto(algorithm);
        let (private, public) = match algorithm {
            Algorithm::Ed25519 => {
                let pair = Ed25519KeyPair::generate().map_err(failed)?;
                (pair.to_pkcs8v1().map_err(failed)?.as_ref().to_vec(), pair.public_key().as_ref().to_vec())
            }
            Algorithm::Rsa => {
                let pair = RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?;
                let private: Pkcs8V1Der<'_> = pair.as_der().map_err(failed)?;
                let public: PublicKeyX509Der<'_> = pair.public_key().as_der().map_err(failed)?;
                (private.as_ref().to_vec(), public.as_ref().to_vec())
            }
        };
        Ok(Self { algorithm, private, public })
    }

    /// Encrypts the private key for storage.
    pub fn seal(
        &self,
        ring: &Keyring,
        tenant: TenantId,
        domain: &str,
        selector: &str,
    ) -> Result<Vec<u8>, KeyringError> {
        seal_private(ring, tenant, domain, selector, &self.private)
    }
}

/// Encrypts a private key (PKCS #8) for storage.
pub fn seal_private(
    ring: &Keyring,
    tenant: TenantId,
    domain: &str,
    selector: &str,
    private: &[u8],
) -> Result<Vec<u8>, KeyringError> {
    ring.seal(Purpose::DkimKey, &context(tenant, domain, selector), private)
}

/// Decrypts a stored private key (PKCS #8).
pub fn open_private(
    ring: &Keyring,
    tenant: TenantId,
    domain: &str,
    selector: &str,
    encrypted: &[u8],
) -> Result<Vec<u8>, KeyringError> {
    ring.open(Purpose::DkimKey, &context(tenant, domain, selector), encrypted)
}

/// Returns the context that an encrypted key is bound to. Domains and selectors contain no slash.
fn context(tenant: TenantId, domain: &str, selector: &str) -> Vec<u8> {
    format!("{}/{domain}/{selector}", tenant.0.simple()).into_bytes()
}

/// Creates a selector: `pr-`, eight letters or digits made from the random bytes, and the algorithm. Both keys of a
/// pair use the same random bytes.
pub fn selector(random: [u8; 5], algorithm: Algorithm) -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let bits = random.into_iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(byte));
    let letter = |index: u32| char::from(LETTERS[(bits >> (5 * index) & 31) as usize]);
    let name: String = (0..8).map(letter).collect();
    format!("pr-{name}-{algorithm}")
}

/// Returns the TXT record of a key (RFC 6376 §3.6.1). An RSA record is longer than the 255 bytes of one string and is
/// published as several strings.
pub fn record(algorithm: Algorithm, public: &[u8]) -> String {
    format!("v=DKIM1; k={algorithm}; p={}", STANDARD.encode(public))
}

/// A decrypted key that signs.
pub struct SigningKey {
    /// The selector of the key's record.
    pub selector: String,
    /// The key's algorithm.
    pub algorithm: Algorithm,
    /// The private key.
    pub key: DkimKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.selector)
    }
}

impl SigningKey {
    /// Decrypts a stored key.
    pub fn open(
        ring: Option<&Keyring>,
        tenant: TenantId,
        domain: &str,
        selector: &str,
        algorithm: Algorithm,
        encrypted: &[u8],
    ) -> Result<Self, KeyError> {
        let ring = ring.ok_or(KeyError::NoSecret)?;
        let private = open_private(ring, tenant, domain, selector, encrypted)?;
        Self::parse(selector, algorithm, private)
    }

    /// Parses a plaintext private key (PKCS #8).
    pub fn parse(selector: &str, algorithm: Algorithm, private: Vec<u8>) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Crypto(algorithm);
        let key = match algorithm {
            Algorithm::Ed25519 => Ed25519Key::from_pkcs8_maybe_unchecked_der(&private).map_err(failed)?.into(),
            Algorithm::Rsa => {
                let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(private));
                RsaKey::<Sha256>::from_key_der(private).map_err(failed)?.into()
            }
        };
        Ok(Self { selector: selector.to_owned(), algorithm, key })
    }
}

/// The keys that sign for a domain.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The signing domain: the `d=` tag of the signatures.
    pub domain: String,
    /// The keys in the order in which they sign, at least one.
    pub keys: Vec<Arc<SigningKey>>,
}

impl Signer {
    /// Returns whether signing takes several hundred microseconds, as it does with RSA.
    pub fn is_slow(&self) -> bool {
        self.keys.iter().any(|key| key.algorithm == Algorithm::Rsa)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_decrypted_only_in_its_context_with_its_secret() {
        let (ring, other) = (Keyring::new("one", []), Keyring::new("two", []));
        for algorithm in Algorithm::ALL {
            let key = NewKey::generate(algorithm).unwrap();
            let encrypted = key.seal(&ring, TenantId::DEFAULT, "acme.test", "a").unwrap();
            let open = |ring: Option<&Keyring>, domain: &str, selector: &str| {
                SigningKey::open(ring, TenantId::DEFAULT, domain, selector, algorithm, &encrypted)
                    .map(|key| key.selector)
            };
            assert_eq!(open(Some(&ring), "acme.test", "a"), Ok("a".to_owned()));
            let other_secret = Err(KeyError::Keyring(KeyringError::OtherSecret));
            assert_eq!(open(Some(&ring), "acme.test", "b"), other_secret);
            assert_eq!(open(Some(&ring), "evil.test", "a"), other_secret);
            assert_eq!(open(Some(&other), "acme.test", "a"), other_secret);
            assert_eq!(open(None, "acme.test", "a"), Err(KeyError::NoSecret));
        }
    }

    #[test]
    fn record_has_the_format_of_rfc_6376() {
        let ed25519 = record(Algorithm::Ed25519, &NewKey::generate(Algorithm::Ed25519).unwrap().public);
        assert_eq!(ed25519.len(), "v=DKIM1; k=ed25519; p=".len() + 44, "32 bytes");
        let rsa = record(Algorithm::Rsa, &NewKey::generate(Algorithm::Rsa).unwrap().public);
        assert!(rsa.starts_with("v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA"), "{rsa}");
    }

    #[test]
    fn selectors_of_a_pair_share_a_random_name() {
        assert_eq!(selector([0; 5], Algorithm::Rsa), "pr-aaaaaaaa-rsa");
        assert_eq!(selector([255; 5], Algorithm::Ed25519), "pr-99999999-ed25519");
        let one_bit = |bit: u32| (1_u64 << bit).to_be_bytes()[3..].try_into().unwrap();
        let all: std::collections::BTreeSet<String> =
            (0..40).map(|bit| selector(one_bit(bit), Algorithm::Rsa)).collect();
        assert_eq!(all.len(), 40);
    }
}
