//! A relay (smarthost) and how it is written: `smtp://[user:pass@]host[:port][?tls=none|opportunistic|required]` or
//! `smtps://…` for TLS from the first octet (RFC 8314), user and password percent-encoded, `&ca_file=PATH` for a
//! certificate authority of one's own.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::{Host, Url};

/// How much TLS is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// Never, even where it is offered.
    None,
    /// Where it is offered, without looking at the certificate (RFC 7435).
    Opportunistic,
    /// Always, with a certificate that is valid for the host.
    Required,
}

impl TlsMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
        }
    }
}

/// Name and password for AUTH.
#[derive(Debug, Clone)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password; never shown.
    pub password: SecretString,
}

/// A server that takes mail for any destination.
#[derive(Debug, Clone)]
pub struct Relay {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS starts with the connection (`smtps`) rather than by STARTTLS.
    pub implicit_tls: bool,
    /// How much TLS is asked for.
    pub tls: TlsMode,
    /// For AUTH.
    pub credentials: Option<Login>,
    /// A PEM file of certificates that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
}

/// What is wrong with a relay's URL. Never repeats the password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RelayError(String);

fn bad<T>(reason: impl Into<String>) -> Result<T, RelayError> {
    Err(RelayError(reason.into()))
}

impl FromStr for Relay {
    type Err = RelayError;

    fn from_str(text: &str) -> Result<Self, RelayError> {
        let Ok(url) = Url::parse(text.trim()) else {
            return bad("a relay is written smtp://[user:password@]host[:port], special characters percent-encoded");
        };
        let implicit_tls = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            other => return bad(format!("a relay's URL begins with smtp:// or smtps://, not {other}://")),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return bad("a relay's URL ends after host and port; a / or # in the password is written %2F or %23");
        }
        let host = host(&url)?;
        let credentials = credentials(&url)?;
        let (tls, ca_file) = options(&url)?;
        let tls = match (tls, implicit_tls) {
            (Some(TlsMode::None | TlsMode::Opportunistic), true) => return bad("smtps:// is always tls=required"),
            (Some(tls), _) => tls,
            (None, _) if implicit_tls || credentials.is_some() => TlsMode::Required,
            (None, _) => TlsMode::Opportunistic,
        };
        if credentials.is_some() && tls != TlsMode::Required && !is_loopback(&host) {
            return bad(format!(
                "user and password are sent over verified TLS only: tls={} must be required",
                tls.as_str()
            ));
        }
        let port = url.port().unwrap_or(match (implicit_tls, &credentials) {
            (true, _) => 465,
            (false, Some(_)) => 587,
            (false, None) => 25,
        });
        if port == 0 {
            return bad("a relay's port is 1 to 65535");
        }
        Ok(Self { host, port, implicit_tls, tls, credentials, ca_file })
    }
}

fn host(url: &Url) -> Result<String, RelayError> {
    match url.host() {
        Some(Host::Ipv4(ip)) => Ok(ip.to_string()),
        Some(Host::Ipv6(ip)) => Ok(ip.to_string()),
        Some(Host::Domain(name)) => match idna::domain_to_ascii(&decode(name)?) {
            Ok(name) if !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control()) => Ok(name),
            _ => bad("the relay's host name is not a host name"),
        },
        None => bad("a relay's URL needs a host"),
    }
}

fn credentials(url: &Url) -> Result<Option<Login>, RelayError> {
    match (url.username(), url.password()) {
        ("", None) => Ok(None),
        ("", Some(_)) => bad("the relay's URL has a password but no user"),
        (_, None | Some("")) => bad("the relay's URL has a user but no password"),
        (user, Some(password)) => {
            let (user, password) = (decode(user)?, decode(password)?);
            if user.contains('\0') || password.contains('\0') {
                return bad("the relay's user and password cannot contain NUL");
            }
            Ok(Some(Login { user, password: password.into() }))
        }
    }
}

fn options(url: &Url) -> Result<(Option<TlsMode>, Option<PathBuf>), RelayError> {
    let (mut tls, mut ca_file) = (None, None);
    for (key, value) in url.query_pairs() {
        match (key.as_ref(), value.as_ref()) {
            ("tls", "none") => tls = Some(TlsMode::None),
            ("tls", "opportunistic") => tls = Some(TlsMode::Opportunistic),
            ("tls", "required") => tls = Some(TlsMode::Required),
            ("tls", other) => return bad(format!("tls is none, opportunistic or required, not {other:?}")),
            ("ca_file", path) if !path.is_empty() => ca_file = Some(PathBuf::from(path)),
            (key, _) => return bad(format!("a relay's URL has no option {key:?}; it has tls and ca_file")),
        }
    }
    Ok((tls, ca_file))
}

fn decode(text: &str) -> Result<String, RelayError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => bad("the percent-encoding in the relay's URL is not UTF-8"),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Relay {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.implicit_tls { "smtps://" } else { "smtp://" })?;
        if let Some(login) = &self.credentials {
            write!(f, "{}@", login.user)?;
        }
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}?tls={}", self.host, self.port, self.tls.as_str())
    }
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn shown(url: &str) -> String {
        url.parse::<Relay>().map_or_else(|error| error.to_string(), |relay| relay.to_string())
    }

    #[test]
    fn defaults_follow_scheme_and_credentials() {
        assert_eq!(shown("smtp://relay.test"), "smtp://relay.test:25?tls=opportunistic");
        assert_eq!(shown("smtp://u:p@relay.test"), "smtp://u@relay.test:587?tls=required");
        assert_eq!(shown("smtps://relay.test"), "smtps://relay.test:465?tls=required");
        assert_eq!(shown("smtp://[::1]:2525?tls=none"), "smtp://[::1]:2525?tls=none");
        assert_eq!(shown("smtp://127.0.0.1:1025/"), "smtp://127.0.0.1:1025?tls=opportunistic");
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let relay: Relay = "smtp://me%40acme.test:p%2Fs%23%20%C3%A9+@relay.test".parse().unwrap();
        let login = relay.credentials.unwrap();
        assert_eq!((login.user.as_str(), login.password.expose_secret()), ("me@acme.test", "p/s# é+"));
    }

    #[test]
    fn the_password_is_never_shown() {
        let relay: Relay = "smtp://u:hunter2@relay.test".parse().unwrap();
        assert!(!format!("{relay:?} {relay}").contains("hunter2"));
        for url in ["smtp://u:hunter2@relay.test?tls=none", "smtp://u:hunter2@relay.test?tls=x", "http://u:hunter2@x"] {
            assert!(!url.parse::<Relay>().unwrap_err().to_string().contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn credentials_travel_only_safely() {
        assert!(shown("smtp://u:p@relay.test?tls=none").contains("verified TLS only"));
        assert!(shown("smtp://u:p@relay.test?tls=opportunistic").contains("verified TLS only"));
        assert_eq!(shown("smtp://u:p@127.0.0.1:25?tls=none"), "smtp://u@127.0.0.1:25?tls=none");
        assert_eq!(shown("smtp://u:p@localhost?tls=none"), "smtp://u@localhost:587?tls=none");
    }

    #[test]
    fn what_is_not_a_relay_is_said() {
        for (url, why) in [
            ("relay.test:25", "begins with smtp://"),
            ("http://relay.test", "begins with smtp://"),
            ("", "is written smtp://"),
            ("smtp://", "needs a host"),
            ("smtp://relay.test:0", "port is"),
            ("smtp://relay.test:99999", "is written smtp://"),
            ("smtp://relay.test/path", "ends after host"),
            ("smtp://relay.test?tls=maybe", "tls is none"),
            ("smtp://relay.test?retries=3", "no option"),
            ("smtps://relay.test?tls=none", "always tls=required"),
            ("smtp://u@relay.test", "no password"),
            ("smtp://:p@relay.test", "no user"),
            ("smtp://re%0d%0alay.test", "not a host name"),
        ] {
            assert!(shown(url).contains(why), "{url:?}: {}", shown(url));
        }
    }
}
