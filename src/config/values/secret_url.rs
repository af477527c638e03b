//! A URL that may contain a password. It is wiped from memory when dropped and never displayed in full.

use std::fmt;

use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::Url;

use crate::domain::routing::relay::Relay;

/// A URL with credentials, such as that of a relay or of the database. Its text form has no user, password or query.
#[derive(Clone)]
pub struct SecretUrl(SecretString);

impl SecretUrl {
    /// Returns the full URL, to connect to it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Checks that this is a URL with one of `schemes`, and with a host if `needs_host`. Errors never contain the URL.
    pub(in crate::config) fn check(&self, schemes: &[&str], needs_host: bool) -> Result<(), String> {
        let url = Url::parse(self.expose()).map_err(|error| format!("is not a URL: {error}"))?;
        if !schemes.contains(&url.scheme()) {
            let names: Vec<_> = schemes.iter().map(|scheme| format!("{scheme}://")).collect();
            return Err(format!("must start with {}, starts with {}:", names.join(" or "), url.scheme()));
        }
        if needs_host && url.host_str().is_none_or(str::is_empty) {
            return Err("has no host".into());
        }
        Ok(())
    }

    /// Checks that this is a relay's URL. Errors never contain the user or the password.
    pub(in crate::config) fn check_relay(&self) -> Result<(), String> {
        self.check(&["smtp", "smtps"], true)?;
        self.expose().parse::<Relay>().map(drop).map_err(|error| format!("cannot be used: {error}"))
    }
}

impl From<String> for SecretUrl {
    fn from(url: String) -> Self {
        Self(url.into())
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(url) = Url::parse(self.expose()) else { return f.write_str("(not a URL)") };
        write!(f, "{}://{}", url.scheme(), url.host_str().unwrap_or_default())?;
        url.port().map_or(Ok(()), |port| write!(f, ":{port}"))?;
        f.write_str(url.path())
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretUrl({self})")
    }
}

/// Serialises without the credentials.
impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_contains_no_credentials() {
        let url = SecretUrl::from("smtp://user:hunter2@relay.example:587?tls=required&password=hunter2".to_owned());
        assert_eq!(format!("{url:?}"), "SecretUrl(smtp://relay.example:587)");
        assert_eq!(serde_json::to_string(&url).expect("JSON"), "\"smtp://relay.example:587\"");
        assert!(!format!("{:?}", SecretUrl::from("hunter2".to_owned())).contains("hunter2"));
    }

    #[test]
    fn only_the_syntax_is_checked() {
        let check = |url: &str, host| SecretUrl::from(url.to_owned()).check(&["smtp", "smtps"], host);
        assert_eq!(check("smtp://inbox:1025?tls=none", true), Ok(()));
        assert_eq!(check("smtps://user:p%40ss@[::1]", true), Ok(()));
        assert_eq!(check("http://relay", true), Err("must start with smtp:// or smtps://, starts with http:".into()));
        assert_eq!(check("smtp:relay", true), Err("has no host".into()));
        assert!(check("relay.example", true).is_err_and(|error| error.starts_with("is not a URL")));
    }
}
