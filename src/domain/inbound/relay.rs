//! The server to which an inbound route passes messages on: its URL, as the API accepts it and as it is stored.

use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::id::InboundRouteId;
use crate::domain::installation::keyring::{Keyring, KeyringError, Purpose};
use crate::domain::routing::relay::{Password, Relay, RelayError};
use crate::domain::webhook::endpoint::ENCRYPTED_PREFIX;

/// A URL from the API. Its `Debug` output has no password.
#[derive(Debug, Clone)]
pub struct RelayTarget {
    url: SecretString,
    /// The parsed URL.
    pub relay: Relay,
}

/// Why a URL is refused. Never contains the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// It is not the URL of a relay.
    #[error(transparent)]
    Url(#[from] RelayError),
    /// It names a file on the server: the owner of an API key must not be able to read files there.
    #[error("the options ca_file and token_file are allowed only in the configuration file")]
    File,
    /// It has a password, and there is no `secret_key` with which to encrypt it.
    #[error("a password needs secret_key (POSTRIDER_SECRET_KEY), with which it is stored encrypted")]
    NoSecretKey,
    /// It cannot be encrypted.
    #[error(transparent)]
    Keyring(KeyringError),
}

/// Why a stored URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredTargetError {
    /// It is encrypted, and no `secret_key` is configured.
    #[error("it is encrypted; configure the secret_key that encrypted it")]
    NoSecretKey,
    /// It is encrypted with another `secret_key`, or was altered.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// This version cannot read it.
    #[error("it is not a URL that this version can read")]
    Unreadable,
}

impl RelayTarget {
    /// Parses a URL.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let relay: Relay = url.parse()?;
        let has_file = relay.ca_file.is_some()
            || relay.credentials.as_ref().is_some_and(|login| matches!(login.password, Password::InFile(_)));
        if has_file {
            return Err(TargetError::File);
        }
        Ok(Self { url: url.into(), relay })
    }

    /// Returns the URL as it is stored for this route: encrypted if there is a keyring. Without one, a URL with a password is
    /// refused.
    pub fn seal(&self, keyring: Option<&Keyring>, route: InboundRouteId) -> Result<Vec<u8>, TargetError> {
        let url = self.url.expose_secret().as_bytes();
        match keyring {
            Some(keyring) => {
                let sealed = keyring.seal(Purpose::RelayUrl, route.0.as_bytes(), url).map_err(TargetError::Keyring)?;
                Ok([ENCRYPTED_PREFIX, &sealed].concat())
            }
            None if self.relay.credentials.is_some() => Err(TargetError::NoSecretKey),
            None => Ok(url.to_vec()),
        }
    }

    /// Reads a stored URL.
    pub fn from_stored(
        stored: &[u8],
        keyring: Option<&Keyring>,
        route: InboundRouteId,
    ) -> Result<Self, StoredTargetError> {
        let url = match stored.strip_prefix(ENCRYPTED_PREFIX) {
            Some(sealed) => {
                let keyring = keyring.ok_or(StoredTargetError::NoSecretKey)?;
                keyring.open(Purpose::RelayUrl, route.0.as_bytes(), sealed)?
            }
            None => stored.to_vec(),
        };
        let url = String::from_utf8(url).map_err(|_| StoredTargetError::Unreadable)?;
        let relay: Relay = url.parse().map_err(|_| StoredTargetError::Unreadable)?;
        Ok(Self { url: url.into(), relay })
    }

    /// Returns the relay of a stored URL.
    pub fn open(stored: &[u8], keyring: Option<&Keyring>, route: InboundRouteId) -> Result<Relay, StoredTargetError> {
        Self::from_stored(stored, keyring, route).map(|target| target.relay)
    }

    /// Returns the URL with its password.
    pub fn expose(&self) -> &str {
        self.url.expose_secret()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: InboundRouteId = InboundRouteId(uuid::Uuid::from_u128(7));

    #[test]
    fn password_is_stored_encrypted_and_never_shown() {
        let (ring, other) = (Keyring::new("one", []), Keyring::new("two", []));
        let target = RelayTarget::parse("smtp://u:hunter2@mail.acme.test:2525?auth=login").unwrap();
        assert_eq!(target.relay.to_string(), "smtp://u@mail.acme.test:2525?tls=required");
        assert!(!format!("{target:?}").contains("hunter2"));
        assert_eq!(target.seal(None, ROUTE), Err(TargetError::NoSecretKey));
        let stored = target.seal(Some(&ring), ROUTE).unwrap();
        assert!(!stored.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(RelayTarget::open(&stored, Some(&ring), ROUTE).as_ref(), Ok(&target.relay));
        assert_eq!(RelayTarget::open(&stored, None, ROUTE), Err(StoredTargetError::NoSecretKey));
        let refused = Err(StoredTargetError::Keyring(KeyringError::OtherSecret));
        assert_eq!(RelayTarget::open(&stored, Some(&other), ROUTE), refused);
        let another = InboundRouteId(uuid::Uuid::from_u128(8));
        assert_eq!(RelayTarget::open(&stored, Some(&ring), another), refused, "it is bound to its route");
    }

    #[test]
    fn without_a_password_no_key_is_needed() {
        let target = RelayTarget::parse("smtp://mail.acme.test").unwrap();
        let stored = target.seal(None, ROUTE).unwrap();
        assert_eq!(RelayTarget::open(&stored, None, ROUTE), Ok(target.relay));
        assert_eq!(RelayTarget::open(b"x", None, ROUTE), Err(StoredTargetError::Unreadable));
        assert_eq!(RelayTarget::open(&[0xff], None, ROUTE), Err(StoredTargetError::Unreadable));
    }

    #[test]
    fn files_of_the_server_are_refused() {
        for url in ["smtp://m.test?ca_file=/etc/passwd", "smtp://u@m.test?token_file=/etc/passwd"] {
            assert_eq!(RelayTarget::parse(url).err(), Some(TargetError::File), "{url}");
        }
        // The API shows URLs without their passwords. Such a URL is refused, so nobody stores it by mistake.
        let shown = RelayTarget::parse("smtp://u:p@m.test").unwrap().relay.to_string();
        assert!(matches!(RelayTarget::parse(&shown), Err(TargetError::Url(_))));
    }
}
