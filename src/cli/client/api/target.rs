//! Which API a command calls, and with which key: from options, the environment, or the `dev.json` of a running `dev`.

use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::cli::client::error::{ClientError, Kind};
use crate::cli::dev::facts::Facts;

/// Options of every client command.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Target {
    /// Base URL of the API, such as `https://mail.example.test`
    #[arg(long, global = true, env = "POSTRIDER_URL", hide_env_values = true, value_name = "URL")]
    url: Option<String>,
    /// API key; other users of this machine can see it in the list of processes, so prefer the environment or a file
    #[arg(long, global = true, env = "POSTRIDER_API_KEY", hide_env_values = true, value_name = "KEY")]
    key: Option<SecretString>,
    /// File that contains the API key
    #[arg(long, global = true, env = "POSTRIDER_API_KEY_FILE", hide_env_values = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Directory of `postrider dev`, from which URL and key are read if they are not given
    #[arg(long, global = true, value_name = "DIR", default_value = ".postrider")]
    dir: PathBuf,
    /// Print the JSON of the API
    #[arg(long, global = true)]
    pub json: bool,
}

/// Which of the keys in `dev.json` a command uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cli::client) enum DevKey {
    /// The key with the scopes `send` and `read`.
    SendAndRead,
    /// The key with the scope `admin`.
    Admin,
}

/// The API to call.
#[derive(Debug)]
pub(in crate::cli::client) struct Endpoint {
    /// The base URL, without a slash at its end.
    pub base: String,
    pub key: SecretString,
    /// Whether it was found in `dev.json`.
    pub is_dev: bool,
}

impl Target {
    /// Finds URL and key. A given key is sent only to a given URL, and a key of `dev.json` only to the address there: the
    /// working directory may belong to another user.
    pub(in crate::cli::client) fn endpoint(&self, dev_key: DevKey) -> Result<Endpoint, ClientError> {
        let url = self.url.as_deref().filter(|url| !url.is_empty()).map(base_url).transpose()?;
        match (url, self.given_key()?) {
            (Some(base), Some(key)) => Ok(Endpoint { base, key, is_dev: false }),
            (None, Some(_)) => Err(ClientError::usage(
                "an API key is given, but no URL of the API",
                "set POSTRIDER_URL or pass --url URL; without a key, both are read from `dev.json` of `postrider dev`",
            )),
            (Some(base), None) => self.dev(dev_key)?.filter(|dev| dev.base == base).ok_or_else(|| {
                ClientError::usage(format!("no API key for {base}"), "set POSTRIDER_API_KEY, or pass --key-file FILE")
            }),
            (None, None) => self.dev(dev_key)?.ok_or_else(|| {
                ClientError::usage(
                    "no URL of the API: neither --url nor POSTRIDER_URL is set, and no `postrider dev` was found",
                    "set POSTRIDER_URL and POSTRIDER_API_KEY, or pass --dir DIR with the directory of `postrider dev`",
                )
            }),
        }
    }

    /// Returns the key from the options, the environment or a file.
    fn given_key(&self) -> Result<Option<SecretString>, ClientError> {
        let key = self.key.as_ref().filter(|key| !key.expose_secret().is_empty());
        let file = self.key_file.as_ref().filter(|path| !path.as_os_str().is_empty());
        match (key, file) {
            (Some(_), Some(_)) => Err(ClientError::usage(
                "both an API key and a file with an API key are given",
                "unset one of POSTRIDER_API_KEY and POSTRIDER_API_KEY_FILE, or leave out one of --key and --key-file",
            )),
            (Some(key), None) => Ok(Some(key.clone())),
            (None, Some(path)) => {
                let text = std::fs::read_to_string(path).map_err(|error| ClientError::file(path, &error))?;
                match text.trim() {
                    "" => Err(ClientError::new(Kind::Usage, format!("{} contains no API key", path.display()))),
                    key => Ok(Some(key.to_owned().into())),
                }
            }
            (None, None) => Ok(None),
        }
    }

    /// Reads `dev.json`; `None` if there is none. Fails if another user could have written it.
    fn dev(&self, key: DevKey) -> Result<Option<Endpoint>, ClientError> {
        let facts = Facts::read_trusted(&self.dir).map_err(|error| {
            let hint =
                "run the command as the user that runs `postrider dev`, or set POSTRIDER_URL and POSTRIDER_API_KEY";
            ClientError::usage(error.to_string(), hint)
        })?;
        let Some(facts) = facts else { return Ok(None) };
        let key = if key == DevKey::Admin { facts.admin_key } else { facts.api_key };
        Ok(Some(Endpoint { base: base_url(&facts.api)?, key: key.into(), is_dev: true }))
    }
}

/// Checks a base URL, and removes the slash at its end. Errors do not repeat it, because it may contain a password.
fn base_url(text: &str) -> Result<String, ClientError> {
    let invalid = |why: String| {
        ClientError::new(Kind::Usage, format!("the URL of the API is not valid: {why}"))
            .with_hint("pass it as https://HOST or http://HOST:PORT")
    };
    let url = Url::parse(text).map_err(|error| invalid(error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(invalid("it must begin with http:// or https://".into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it must not contain a user name or a password".into()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it must not contain ? or #".into()));
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;

    use super::*;

    /// Writes a `dev.json` with this address, and returns the options of a command that reads it.
    fn target(dir: &Path, api: &str, url: Option<&str>, key: Option<&str>) -> Target {
        let facts = serde_json::json!({
            "api": api, "api_key": "dev", "admin_key": "dev-admin", "database_url": "", "inbox_smtp": ""
        });
        let path = dir.join("dev.json");
        std::fs::write(&path, facts.to_string()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let (url, key) = (url.map(Into::into), key.map(|key| key.to_owned().into()));
        Target { url, key, key_file: None, dir: dir.to_owned(), json: false }
    }

    fn found(target: &Target, key: DevKey) -> Result<(String, String), u8> {
        let endpoint = target.endpoint(key).map_err(|error| error.kind().exit_code())?;
        Ok((endpoint.base, endpoint.key.expose_secret().to_owned()))
    }

    #[test]
    fn keys_are_sent_only_to_the_address_they_belong_to() {
        let dir = tempfile::tempdir().unwrap();
        let pair = |base: &str, key: &str| Ok((base.to_owned(), key.to_owned()));
        let (here, there) = ("http://127.0.0.1:8080", "https://evil.test");
        for (api, url, key, expected) in [
            (here, None, None, pair(here, "dev")),
            (here, Some("http://127.0.0.1:8080/"), None, pair(here, "dev")),
            (here, Some("https://mail.test/api/"), Some("k"), pair("https://mail.test/api", "k")),
            (here, None, Some("k"), Err(2)),
            (here, Some("https://mail.test"), None, Err(2)),
            (there, None, Some("k"), Err(2)),
            (there, None, None, pair(there, "dev")),
            (here, Some(""), Some(""), pair(here, "dev")),
        ] {
            assert_eq!(found(&target(dir.path(), api, url, key), DevKey::SendAndRead), expected, "{url:?} {key:?}");
        }
        assert_eq!(found(&target(dir.path(), here, None, None), DevKey::Admin), pair(here, "dev-admin"));

        let writable = target(dir.path(), here, None, None);
        std::fs::set_permissions(dir.path().join("dev.json"), Permissions::from_mode(0o666)).unwrap();
        assert_eq!(found(&writable, DevKey::SendAndRead), Err(2));
    }

    #[test]
    fn invalid_urls_are_not_repeated_in_errors() {
        for url in ["mail.test", "ftp://mail.test", "https://u:hunter2@mail.test", "https://mail.test?key=hunter2"] {
            let error = base_url(url).unwrap_err();
            assert!(error.kind() == Kind::Usage && !error.to_string().contains("hunter2"), "{error}");
        }
    }
}
