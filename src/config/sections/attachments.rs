//! `[attachments]`: the object store for large attachments.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use crate::config::values::range::{within, within_time};
use crate::config::values::secret_key::SecretKey;

/// Where the credentials of the bucket come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CredentialSource {
    /// The keys `access_key_id`, `secret_access_key` and `session_token`.
    Static,
    /// The file `credentials_file`, which is read again while the service runs.
    File,
    /// The variables that AWS sets: an access key, or the role of a pod in EKS or of a task in ECS.
    Environment,
    /// The role of the instance in EC2.
    Instance,
}

/// The object store for large attachments.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Attachments {
    /// The bucket for large attachments, in S3 or a compatible service. Without it, all attachments are in the database.
    pub bucket: Option<String>,
    /// The URL of the service, without the bucket. Without it, AWS in `region`.
    pub endpoint: Option<Url>,
    /// The region, which is part of the signatures of requests.
    pub region: String,
    /// Where the credentials come from.
    pub credentials: CredentialSource,
    /// The id of the access key.
    pub access_key_id: Option<String>,
    /// The secret of the access key.
    pub secret_access_key: Option<SecretKey>,
    /// The session token of a temporary access key. It is not renewed.
    pub session_token: Option<SecretKey>,
    /// A file with an access key in the format of AWS.
    pub credentials_file: Option<PathBuf>,
    /// The beginning of the keys of new objects. Each installation that uses the bucket needs its own.
    pub prefix: Option<String>,
    /// Whether the bucket is in the path of URLs. If not, it is the first label of the host name.
    pub path_style: bool,
    /// Attachments larger than this are stored in the bucket, in KiB, 128–1048576.
    pub threshold_kib: u32,
    /// Time limit of a request with its retries, 1s–5m; a second per MiB is added.
    #[serde(with = "crate::config::values::duration")]
    pub timeout: Duration,
}

impl Attachments {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.threshold_kib, 128..=1 << 20)?;
        within_time(self.timeout, Duration::from_secs(1)..=Duration::from_mins(5))?;
        if self.prefix.as_deref().is_some_and(|prefix| !is_prefix(prefix)) {
            return Err("must be at most 200 letters, digits, -, _, . and /, such as production/".into());
        }
        // They are part of headers and host names.
        if !is_region(&self.region) {
            return Err("must be the name of a region: 1–64 letters, digits, -, _ and ., such as eu-central-1".into());
        }
        if self.access_key_id.as_deref().is_some_and(|id| !is_key_id(id)) {
            return Err("must be the id of an access key: 1–128 characters of ASCII without spaces".into());
        }
        if self.session_token.as_ref().is_some_and(|token| !is_token(token.expose())) {
            return Err("must be the session token of an access key: 1–16384 characters of ASCII without spaces".into());
        }
        if self.endpoint.as_ref().is_some_and(|url| !is_service(url)) {
            return Err("must be a URL such as https://s3.example.net, without user, path and query".into());
        }
        match &self.bucket {
            Some(bucket) if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_in_bucket) => {
                Err("must be the name of a bucket: 3–63 lower-case letters, digits, - and .".into())
            }
            _ => Ok(()),
        }
    }

    /// Returns the keys that are missing or have no effect, each with an error. Checked once all keys are known.
    pub(in crate::config) fn check_whole(&self) -> Vec<(&'static str, String)> {
        if self.bucket.is_none() {
            return Vec::new();
        }
        let (fixed, file) = (CredentialSource::Static, CredentialSource::File);
        // Each key, whether it is set, the only source that uses it, and whether this source needs it.
        let keys = [
            ("attachments.access_key_id", self.access_key_id.is_some(), fixed, true),
            ("attachments.secret_access_key", self.secret_access_key.is_some(), fixed, true),
            ("attachments.session_token", self.session_token.is_some(), fixed, false),
            ("attachments.credentials_file", self.credentials_file.is_some(), file, true),
        ];
        let source = self.credentials.name();
        let faults = keys.into_iter().filter_map(|(key, is_set, user, is_needed)| {
            let is_used = user == self.credentials;
            match (is_set, is_used) {
                (false, true) if is_needed => Some((
                    key,
                    format!("must be set, because attachments.bucket is, and attachments.credentials is \"{source}\""),
                )),
                (true, false) => Some((
                    key,
                    format!("has no effect, because attachments.credentials is \"{source}\": unset one of them"),
                )),
                _ => None,
            }
        });
        faults.collect()
    }
}

impl CredentialSource {
    fn name(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Instance => "instance",
        }
    }
}

fn is_prefix(prefix: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte);
    // The rest of a key follows the last `/`.
    let has_names = prefix.split_inclusive('/').all(|name| !["/", "./", "../"].contains(&name));
    prefix.len() <= 200 && prefix.bytes().all(is_allowed) && has_names
}

fn is_region(region: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&region.len()) && region.bytes().all(is_allowed)
}

fn is_key_id(id: &str) -> bool {
    (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_token(token: &str) -> bool {
    (1..=16 << 10).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_in_bucket(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte)
}

fn is_service(url: &Url) -> bool {
    ["https", "http"].contains(&url.scheme())
        && url.host_str().is_some()
        && url.username().is_empty()
        && url.password().is_none()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn changed(change: impl FnOnce(&mut Attachments)) -> Attachments {
        let mut section = Config::default().attachments;
        change(&mut section);
        section
    }

    #[test]
    fn bucket_needs_an_access_key() {
        assert_eq!(changed(|_| {}).check_whole(), []);
        let section = changed(|section| section.bucket = Some("files".into()));
        assert_eq!(section.check(), Ok(()), "the other keys are not known yet");
        let missing: Vec<&str> = section.check_whole().into_iter().map(|(key, _)| key).collect();
        assert_eq!(missing, ["attachments.access_key_id", "attachments.secret_access_key"]);
        let whole = changed(|section| {
            section.bucket = Some("files".into());
            section.access_key_id = Some("id".into());
            section.secret_access_key = Some("secret".to_owned().into());
        });
        assert_eq!(whole.check_whole(), []);
    }

    #[test]
    fn keys_fit_to_where_the_credentials_come_from() {
        let faults = |source: CredentialSource, has_key: bool| {
            let section = changed(|section| {
                section.bucket = Some("files".into());
                section.credentials = source;
                section.access_key_id = has_key.then(|| "id".into());
            });
            section.check_whole().into_iter().map(|(key, message)| format!("{key} {message}")).collect::<Vec<_>>()
        };
        assert!(faults(CredentialSource::Environment, false).is_empty());
        assert!(faults(CredentialSource::Instance, false).is_empty());
        let unused = faults(CredentialSource::Instance, true);
        assert!(unused[0].starts_with("attachments.access_key_id has no effect") && unused.len() == 1, "{unused:?}");
        let missing = faults(CredentialSource::File, false);
        assert!(
            missing[0].starts_with("attachments.credentials_file must be set") && missing.len() == 1,
            "{missing:?}"
        );
    }

    #[test]
    fn session_token_fits_into_a_header() {
        for (token, is_valid) in [("FwoGZXIvYXdzEBYa/+==", true), ("", false), ("a b", false), ("a\n", false)] {
            let section = changed(|section| section.session_token = Some(token.to_owned().into()));
            assert_eq!(section.check().is_ok(), is_valid, "{token}");
        }
    }

    #[test]
    fn bucket_is_a_valid_name() {
        for (bucket, is_valid) in [("files", true), ("a.b-1", true), ("ab", false), ("Files", false), ("a/b", false)] {
            assert_eq!(changed(|section| section.bucket = Some(bucket.into())).check().is_ok(), is_valid, "{bucket}");
        }
    }

    #[test]
    fn prefix_makes_valid_keys() {
        for prefix in ["", "a", "a/", "a-b/c.d/", "...", "a/.b"] {
            assert_eq!(changed(|section| section.prefix = Some(prefix.into())).check(), Ok(()), "{prefix}");
        }
        for prefix in ["/", "/a", "a//", "../", "a/./", "a b/", "ä/"] {
            assert!(changed(|section| section.prefix = Some(prefix.into())).check().is_err(), "{prefix}");
        }
    }

    #[test]
    fn region_and_access_key_fit_into_headers() {
        for (region, is_valid) in [("eu-central-1", true), ("auto", true), ("", false), ("a b", false), ("ä", false)] {
            assert_eq!(changed(|section| section.region = region.into()).check().is_ok(), is_valid, "{region}");
        }
        for (id, is_valid) in
            [("AKIA1", true), ("a/b+c=", true), ("", false), ("a b", false), ("a\n", false), ("ä", false)]
        {
            assert_eq!(changed(|section| section.access_key_id = Some(id.into())).check().is_ok(), is_valid, "{id}");
        }
    }

    #[test]
    fn endpoint_has_no_path() {
        for (endpoint, is_valid) in [
            ("https://s3.example.net", true),
            ("http://127.0.0.1:9000/", true),
            ("https://s3.example.net/files", false),
            ("https://id:secret@s3.example.net", false),
            ("ftp://s3.example.net", false),
        ] {
            assert_eq!(
                changed(|section| section.endpoint = endpoint.parse().ok()).check().is_ok(),
                is_valid,
                "{endpoint}"
            );
        }
    }
}
