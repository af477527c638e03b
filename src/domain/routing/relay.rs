//! Relays (smarthosts) and their URLs: `smtp://[user[:password]@]host[:port][?tls=none|opportunistic|required]` or
//! `smtps://…` for TLS from the first byte (RFC 8314), user and password percent-encoded. More options: `ca_file=PATH`
//! for a private certificate authority, `auth=plain|login|xoauth2`, and `token_file=PATH` for a file with an access
//! token, which replaces the password. The file is read at every login, since tokens expire.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The TLS requirement for a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TlsMode {
    /// Never use TLS, even if the server offers it.
    None,
    /// Use TLS if the server offers it, without verifying the certificate (RFC 7435).
    Opportunistic,
    /// Require TLS, with any certificate. In a relay's URL, `tls=required` means [`TlsMode::Verified`].
    Required,
    /// Require TLS, with a certificate that is valid for the host.
    Verified,
}

impl TlsMode {
    /// Returns the mode's name in the configuration and in responses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Opportunistic => "opportunistic",
            Self::Required => "required",
            Self::Verified => "verified",
        }
    }

    /// Returns the value of `tls=` in a relay's URL, where `required` means verified.
    pub fn as_relay_option(self) -> &'static str {
        match self {
            Self::Verified => Self::Required.as_str(),
            other => other.as_str(),
        }
    }
}

/// An authentication mechanism (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// PLAIN (RFC 4616).
    Plain,
    /// LOGIN, for old servers.
    Login,
    /// XOAUTH2: an OAuth 2.0 access token, as for Google and Microsoft.
    Xoauth2,
}

/// Credentials for AUTH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password or token.
    pub password: Password,
    /// The mechanism to use; `None` to use PLAIN or LOGIN, whichever the server offers.
    pub mechanism: Option<Mechanism>,
}

/// A password or access token; never printed.
#[derive(Debug, Clone)]
pub enum Password {
    /// The value itself.
    Given(SecretString),
    /// The current content of this file.
    InFile(PathBuf),
}

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Given(one), Self::Given(other)) => one.expose_secret() == other.expose_secret(),
            (Self::InFile(one), Self::InFile(other)) => one == other,
            _ => false,
        }
    }
}

impl Eq for Password {}

/// A server that accepts messages for any destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Whether TLS starts with the connection (`smtps`) instead of after STARTTLS.
    pub implicit_tls: bool,
    /// The TLS requirement.
    pub tls: TlsMode,
    /// Credentials for AUTH.
    pub credentials: Option<Login>,
    /// A PEM file with certificates that are trusted in addition to the system's.
    pub ca_file: Option<PathBuf>,
}

/// An error in a relay's URL. Never contains the password.
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
            return bad(
                "a relay must have the form smtp://[user:password@]host[:port], with special characters percent-encoded",
            );
        };
        let implicit_tls = match url.scheme() {
            "smtp" => false,
            "smtps" => true,
            other => return bad(format!("a relay's URL must begin with smtp:// or smtps://, not {other}://")),
        };
        if !matches!(url.path(), "" | "/") || url.fragment().is_some() {
            return bad("a relay's URL must end after host and port; write a / or # in the password as %2F or %23");
        }
        let host = host(&url)?;
        let options = Options::from_url(&url)?;
        let credentials = credentials(&url, options.auth, options.token_file)?;
        let tls = match (options.tls, implicit_tls) {
            (Some(TlsMode::None | TlsMode::Opportunistic), true) => return bad("smtps:// allows only tls=required"),
            (Some(tls), _) => tls,
            (None, _) if implicit_tls || credentials.is_some() => TlsMode::Verified,
            (None, _) => TlsMode::Opportunistic,
        };
        if credentials.is_some() && tls != TlsMode::Verified && !is_loopback(&host) {
            return bad(format!(
                "user and password are sent over verified TLS only; replace tls={} with tls=required",
                tls.as_relay_option()
            ));
        }
        let port = url.port().unwrap_or(match (implicit_tls, &credentials) {
            (true, _) => 465,
            (false, Some(_)) => 587,
            (false, None) => 25,
        });
        if port == 0 {
            return bad("a relay's port must be from 1 to 65535");
        }
        Ok(Self { host, port, implicit_tls, tls, credentials, ca_file: options.ca_file })
    }
}

fn host(url: &Url) -> Result<String, RelayError> {
    match url.host() {
        Some(Host::Ipv4(ip)) => Ok(ip.to_string()),
        Some(Host::Ipv6(ip)) => Ok(ip.to_string()),
        Some(Host::Domain(name)) => match idna::domain_to_ascii(&decode(name)?) {
            Ok(name) if !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control()) => Ok(name),
            _ => bad("the relay's host must be a host name or an IP address"),
        },
        None => bad("a relay's URL needs a host"),
    }
}

fn credentials(
    url: &Url,
    mechanism: Option<Mechanism>,
    token_file: Option<PathBuf>,
) -> Result<Option<Login>, RelayError> {
    let user = decode(url.username())?;
    let password = match url.password() {
        None | Some("") => None,
        Some(password) => Some(decode(password)?),
    };
    let has_nul = |text: &str| text.contains('\0');
    if has_nul(&user) || password.as_deref().is_some_and(has_nul) {
        return bad("the relay's user and password must not contain NUL");
    }
    let (password, mechanism) = match (password, token_file) {
        _ if user.is_empty() && url.password().is_some() => return bad("the relay's URL has a password but no user"),
        (None, None) if user.is_empty() && mechanism.is_none() => return Ok(None),
        _ if user.is_empty() => return bad("auth and token_file need a user in the relay's URL"),
        (None, None) => return bad("the relay's URL has a user but no password"),
        (Some(_), Some(_)) => return bad("the relay's URL has both a password and a token_file"),
        (Some(password), None) => (Password::Given(password.into()), mechanism),
        (None, Some(_)) if matches!(mechanism, Some(Mechanism::Plain | Mechanism::Login)) => {
            return bad("token_file requires auth=xoauth2");
        }
        (None, Some(path)) => (Password::InFile(path), Some(Mechanism::Xoauth2)),
    };
    Ok(Some(Login { user, password, mechanism }))
}

/// The options after the `?`.
#[derive(Default)]
struct Options {
    tls: Option<TlsMode>,
    ca_file: Option<PathBuf>,
    auth: Option<Mechanism>,
    token_file: Option<PathBuf>,
}

impl Options {
    fn from_url(url: &Url) -> Result<Self, RelayError> {
        let mut options = Self::default();
        for (key, value) in url.query_pairs() {
            match (key.as_ref(), value.as_ref()) {
                ("tls", "none") => options.tls = Some(TlsMode::None),
                ("tls", "opportunistic") => options.tls = Some(TlsMode::Opportunistic),
                ("tls", "required") => options.tls = Some(TlsMode::Verified),
                ("tls", other) => return bad(format!("tls must be none, opportunistic or required, not {other:?}")),
                ("auth", "plain") => options.auth = Some(Mechanism::Plain),
                ("auth", "login") => options.auth = Some(Mechanism::Login),
                ("auth", "xoauth2") => options.auth = Some(Mechanism::Xoauth2),
                ("auth", other) => return bad(format!("auth must be plain, login or xoauth2, not {other:?}")),
                ("ca_file", path) if !path.is_empty() => options.ca_file = Some(PathBuf::from(path)),
                ("token_file", path) if !path.is_empty() => options.token_file = Some(PathBuf::from(path)),
                (key, _) => {
                    let options = "use tls, ca_file, auth or token_file";
                    return bad(format!("a relay's URL has no option {key:?}; {options}"));
                }
            }
        }
        Ok(options)
    }
}

fn decode(text: &str) -> Result<String, RelayError> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => bad("the percent-encoding in the relay's URL must be UTF-8"),
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Relay {
    /// Writes the URL without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.implicit_tls { "smtps://" } else { "smtp://" })?;
        if let Some(login) = &self.credentials {
            write!(f, "{}@", login.user)?;
        }
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}?tls={}", self.host, self.port, self.tls.as_relay_option())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(url: &str) -> String {
        url.parse::<Relay>().map_or_else(|error| error.to_string(), |relay| relay.to_string())
    }

    #[test]
    fn defaults_follow_scheme_and_credentials() {
        assert_eq!(parsed("smtp://relay.test"), "smtp://relay.test:25?tls=opportunistic");
        assert_eq!(parsed("smtp://u:p@relay.test"), "smtp://u@relay.test:587?tls=required");
        assert_eq!(parsed("smtps://relay.test"), "smtps://relay.test:465?tls=required");
        assert_eq!(parsed("smtp://[::1]:2525?tls=none"), "smtp://[::1]:2525?tls=none");
        assert_eq!(parsed("smtp://127.0.0.1:1025/"), "smtp://127.0.0.1:1025?tls=opportunistic");
    }

    #[test]
    fn user_and_password_are_percent_decoded() {
        let relay: Relay = "smtp://me%40acme.test:p%2Fs%23%20%C3%A9+@relay.test".parse().unwrap();
        let login = relay.credentials.unwrap();
        assert_eq!((login.user.as_str(), login.password), ("me@acme.test", Password::Given("p/s# é+".into())));
    }

    #[test]
    fn password_is_never_formatted() {
        let relay: Relay = "smtp://u:hunter2@relay.test".parse().unwrap();
        assert!(!format!("{relay:?} {relay}").contains("hunter2"));
        for url in ["smtp://u:hunter2@relay.test?tls=none", "smtp://u:hunter2@relay.test?tls=x", "http://u:hunter2@x"] {
            assert!(!url.parse::<Relay>().unwrap_err().to_string().contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn credentials_need_verified_tls() {
        assert!(parsed("smtp://u:p@relay.test?tls=none").contains("verified TLS only"));
        assert!(parsed("smtp://u:p@relay.test?tls=opportunistic").contains("verified TLS only"));
        assert_eq!(parsed("smtp://u:p@127.0.0.1:25?tls=none"), "smtp://u@127.0.0.1:25?tls=none");
        assert_eq!(parsed("smtp://u:p@localhost?tls=none"), "smtp://u@localhost:587?tls=none");
    }

    #[test]
    fn token_file_means_xoauth2() {
        let login = |url: &str| url.parse::<Relay>().unwrap().credentials.unwrap();
        let token = login("smtp://me%40acme.test@relay.test?token_file=/run/token");
        assert_eq!(
            (token.mechanism, &token.password),
            (Some(Mechanism::Xoauth2), &Password::InFile("/run/token".into()))
        );
        assert_eq!(login("smtp://u:p@relay.test?auth=login").mechanism, Some(Mechanism::Login));
        assert_eq!(login("smtp://u:p@relay.test").mechanism, None);
        assert_eq!(parsed("smtp://u@relay.test?token_file=/t"), "smtp://u@relay.test:587?tls=required");
    }

    #[test]
    fn invalid_relay_is_rejected_with_the_reason() {
        for (url, why) in [
            ("relay.test:25", "must begin with smtp://"),
            ("http://relay.test", "must begin with smtp://"),
            ("", "must have the form smtp://"),
            ("smtp://", "needs a host"),
            ("smtp://relay.test:0", "port must be"),
            ("smtp://relay.test:99999", "must have the form smtp://"),
            ("smtp://relay.test/path", "must end after host"),
            ("smtp://relay.test?tls=maybe", "tls must be none"),
            ("smtp://relay.test?retries=3", "no option"),
            ("smtps://relay.test?tls=none", "allows only tls=required"),
            ("smtp://u@relay.test", "no password"),
            ("smtp://u@relay.test?auth=xoauth2", "no password"),
            ("smtp://relay.test?auth=plain", "need a user"),
            ("smtp://relay.test?token_file=/t", "need a user"),
            ("smtp://u:p@relay.test?token_file=/t", "both"),
            ("smtp://u@relay.test?auth=login&token_file=/t", "requires auth=xoauth2"),
            ("smtp://u:p@relay.test?auth=cram-md5", "auth must be plain"),
            ("smtp://:p@relay.test", "no user"),
            ("smtp://re%0d%0alay.test", "must be a host name"),
        ] {
            assert!(parsed(url).contains(why), "{url:?}: {}", parsed(url));
        }
    }
}
