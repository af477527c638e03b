//! Where the credentials of the bucket come from.
//!
//! The crate `object_store` fetches those of roles, keeps them in memory, and fetches new ones from five minutes before they expire, through
//! the same HTTP client as all requests to the store.

use std::path::PathBuf;
use std::sync::Arc;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key};
use secrecy::{ExposeSecret as _, SecretString};

use super::credentials_file::FileCredentials;

/// Name of the session of a role, in the audit log of AWS, unless `AWS_ROLE_SESSION_NAME` is set.
const SESSION_NAME: &str = "postrider";
/// Maximum length of a session token in bytes. Those of AWS have about 1 KB.
const MAX_TOKEN: usize = 16 << 10;

/// An access key.
#[derive(Debug, Clone)]
pub struct AccessKey {
    /// The id of the access key.
    pub id: String,
    /// The secret of the access key.
    pub secret: SecretString,
    /// The session token of a temporary access key.
    pub session_token: Option<SecretString>,
}

impl AccessKey {
    /// Returns whether the id and the token fit into the headers of a request.
    pub(super) fn is_valid(&self) -> bool {
        let fits =
            |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        fits(&self.id, 128) && self.session_token.as_ref().is_none_or(|token| fits(token.expose_secret(), MAX_TOKEN))
    }
}

/// Where the credentials come from.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// This access key.
    Static(AccessKey),
    /// A file with an access key in the format of AWS, which is read again while the service runs.
    File(PathBuf),
    /// The token in a file is exchanged at STS: IAM roles for service accounts in EKS.
    WebIdentity {
        /// The path of the file with the token.
        token_file: String,
        /// The role.
        role_arn: String,
        /// The name of the session.
        session_name: String,
        /// The URL of STS, unless it is that of AWS in the region.
        endpoint: Option<String>,
    },
    /// The role of a task in ECS.
    Task {
        /// The path at the address of the service of ECS.
        path: String,
    },
    /// The role of a pod in EKS (Pod Identity), or of a task that has a token.
    Container {
        /// The URL that returns credentials.
        url: String,
        /// The path of the file with the token for it.
        token_file: String,
    },
    /// The role of an instance in EC2, from its metadata service (`IMDSv2`).
    Instance {
        /// The URL of the metadata service, unless it is that of EC2.
        endpoint: Option<String>,
    },
}

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// One variable of two is set.
    #[error("attachments.credentials is \"environment\", and {set} is set, but {missing} is not")]
    Incomplete {
        /// The variable that is set.
        set: &'static str,
        /// The variable that is not set.
        missing: &'static str,
    },
    /// No variable is set.
    #[error(
        "attachments.credentials is \"environment\", but none of AWS_ACCESS_KEY_ID, AWS_WEB_IDENTITY_TOKEN_FILE, \
         AWS_CONTAINER_CREDENTIALS_RELATIVE_URI and AWS_CONTAINER_CREDENTIALS_FULL_URI is set; for the role of an instance in \
         EC2, set attachments.credentials to \"instance\""
    )]
    NotInEnvironment,
    /// The values cannot be sent.
    #[error("AWS_ACCESS_KEY_ID or AWS_SESSION_TOKEN has characters that are not allowed, or is too long")]
    Variables,
    /// The file cannot be used.
    #[error("attachments.credentials_file: {0}")]
    File(String),
}

impl Credentials {
    /// Returns the credentials that the environment names, in the order of AWS's SDKs. A variable that is empty counts as not set.
    pub fn from_environment(get: impl Fn(&str) -> Option<String>) -> Result<Self, CredentialsError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let both = |first: &'static str, second: &'static str| match (get(first), get(second)) {
            (Some(one), Some(two)) => Ok(Some((one, two))),
            (None, None) => Ok(None),
            (Some(_), None) => Err(CredentialsError::Incomplete { set: first, missing: second }),
            (None, Some(_)) => Err(CredentialsError::Incomplete { set: second, missing: first }),
        };
        if let Some((id, secret)) = both("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")? {
            let session_token = get("AWS_SESSION_TOKEN").map(SecretString::from);
            let key = AccessKey { id, secret: secret.into(), session_token };
            return if key.is_valid() { Ok(Self::Static(key)) } else { Err(CredentialsError::Variables) };
        }
        if let Some((token_file, role_arn)) = both("AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_ROLE_ARN")? {
            let session_name = get("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.into());
            return Ok(Self::WebIdentity { token_file, role_arn, session_name, endpoint: get("AWS_ENDPOINT_URL_STS") });
        }
        if let Some(path) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            return Ok(Self::Task { path });
        }
        let container = both("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")?;
        let (url, token_file) = container.ok_or(CredentialsError::NotInEnvironment)?;
        Ok(Self::Container { url, token_file })
    }

    /// Lets requests be signed with these credentials. Reads the file with them; nothing else is fetched yet.
    pub(super) fn apply(self, builder: AmazonS3Builder) -> Result<AmazonS3Builder, CredentialsError> {
        Ok(match self {
            Self::Static(key) => {
                let builder =
                    builder.with_access_key_id(key.id).with_secret_access_key(key.secret.expose_secret().to_owned());
                match key.session_token {
                    Some(token) => builder.with_token(token.expose_secret().to_owned()),
                    None => builder,
                }
            }
            Self::File(path) => {
                builder.with_credentials(Arc::new(FileCredentials::open(path).map_err(CredentialsError::File)?))
            }
            Self::WebIdentity { token_file, role_arn, session_name, endpoint } => {
                let builder = builder
                    .with_config(Key::WebIdentityTokenFile, token_file)
                    .with_config(Key::RoleArn, role_arn)
                    .with_config(Key::RoleSessionName, session_name);
                match endpoint {
                    Some(endpoint) => builder.with_config(Key::StsEndpoint, endpoint),
                    None => builder,
                }
            }
            Self::Task { path } => builder.with_config(Key::ContainerCredentialsRelativeUri, path),
            Self::Container { url, token_file } => builder
                .with_config(Key::ContainerCredentialsFullUri, url)
                .with_config(Key::ContainerAuthorizationTokenFile, token_file),
            Self::Instance { endpoint: Some(endpoint) } => builder.with_metadata_endpoint(endpoint),
            Self::Instance { endpoint: None } => builder,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)]) -> Result<Credentials, String> {
        let get = |name: &str| variables.iter().find(|(one, _)| *one == name).map(|(_, value)| (*value).to_owned());
        Credentials::from_environment(get).map_err(|error| error.to_string())
    }

    #[test]
    fn access_key_comes_before_roles() {
        let role = [("AWS_WEB_IDENTITY_TOKEN_FILE", "/token"), ("AWS_ROLE_ARN", "arn")];
        let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", "t")];
        let Ok(Credentials::Static(found_key)) = found(&[&role[..], &key].concat()) else { panic!() };
        assert_eq!((&*found_key.id, found_key.session_token.unwrap().expose_secret()), ("id", "t"));
        let Ok(Credentials::WebIdentity { session_name, endpoint, .. }) = found(&role) else { panic!() };
        assert_eq!((&*session_name, endpoint), ("postrider", None));
    }

    #[test]
    fn containers_have_a_path_or_a_url() {
        let path = ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/1");
        assert!(matches!(found(&[path]), Ok(Credentials::Task { path }) if path == "/v2/credentials/1"));
        let url = ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials");
        let token = ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token");
        assert!(matches!(found(&[url, token]), Ok(Credentials::Container { .. })));
    }

    #[test]
    fn errors_name_the_setting_and_the_variable() {
        let nothing = found(&[("AWS_ACCESS_KEY_ID", "")]).unwrap_err();
        assert!(nothing.contains("attachments.credentials") && nothing.contains("\"instance\""), "{nothing}");
        for (set, missing) in [
            ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
            ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
        ] {
            let error = found(&[(set, "x")]).unwrap_err();
            assert!(error.contains(&format!("{set} is set, but {missing} is not")), "{error}");
        }
        let token = "a secret\ntoken";
        let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "s"), ("AWS_SESSION_TOKEN", token)];
        assert!(!found(&key).unwrap_err().contains("secret"));
    }
}
