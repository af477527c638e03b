//! Builds what concerns HTTP requests to other servers: the check of the addresses of webhook endpoints, for the API and
//! for the workers; the fetcher of attachments; and the client of the object store.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::{Attachments, Config, CredentialSource};
use crate::dns;
use crate::fetch::Fetcher;
use crate::http::TargetCheck;
use crate::object_storage::{AccessKey, Credentials, ObjectStorage, Objects, Settings};
use crate::url_guard::{Guard, Purpose};

/// Creates the guard that decides to which addresses events may be posted.
pub fn guard(config: &Config) -> anyhow::Result<Guard> {
    let dns = dns::resolver(config.dns).context("cannot set up the DNS resolver")?;
    Ok(Guard::new(dns, config.webhooks.allowed(), Purpose::Webhook))
}

/// Creates the check that the API runs before an endpoint is created or changed, so that an endpoint with a denied
/// address is refused at once.
pub(super) fn target_check(config: &Config) -> anyhow::Result<TargetCheck> {
    let guard = Arc::new(guard(config)?);
    Ok(TargetCheck::new(move |url| {
        let guard = guard.clone();
        Box::pin(async move { guard.admits(&url).await.map_err(|denied| denied.to_string()) })
    }))
}

/// Creates the fetcher of attachments; `None` if it is switched off.
pub(super) fn fetcher(config: &Config) -> anyhow::Result<Option<Fetcher>> {
    let resend = &config.resend;
    if !(resend.enabled && resend.fetch_attachments) {
        return Ok(None);
    }
    let dns = dns::resolver(config.dns).context("cannot set up the DNS resolver")?;
    let guard = Guard::new(dns, resend.allowed(), Purpose::Attachment);
    let max = u64::from(config.accept.max_upload_mib) << 20;
    Ok(Some(Fetcher::new(guard, resend.fetch_timeout, max).context("cannot set up TLS")?))
}

/// Creates the client of the object store for large attachments; `None` if none is configured.
pub fn objects(config: &Config) -> anyhow::Result<Objects> {
    let section = &config.attachments;
    let Some(bucket) = &section.bucket else { return Ok(None) };
    let credentials = credentials(section, |name| std::env::var(name).ok())?;
    let settings = Settings {
        bucket: bucket.clone(),
        endpoint: section.endpoint.clone(),
        region: section.region.clone(),
        credentials,
        prefix: section.prefix.clone().unwrap_or_default(),
        path_style: section.path_style,
        threshold: u64::from(section.threshold_kib) << 10,
        timeout: section.timeout,
    };
    Ok(Some(Arc::new(ObjectStorage::new(settings).context("cannot set up the object store of attachments")?)))
}

/// Returns where the credentials of the bucket come from. `variable` returns a variable of the environment.
fn credentials(section: &Attachments, variable: impl Fn(&str) -> Option<String>) -> anyhow::Result<Credentials> {
    // The keys that are needed were checked when the configuration was read.
    let key = |key: &str| format!("attachments.{key} is not set");
    Ok(match section.credentials {
        CredentialSource::Static => Credentials::Static(AccessKey {
            id: section.access_key_id.clone().with_context(|| key("access_key_id"))?,
            secret: section
                .secret_access_key
                .as_ref()
                .with_context(|| key("secret_access_key"))?
                .expose()
                .to_owned()
                .into(),
            session_token: section.session_token.as_ref().map(|token| token.expose().to_owned().into()),
        }),
        CredentialSource::File => {
            Credentials::File(section.credentials_file.clone().with_context(|| key("credentials_file"))?)
        }
        CredentialSource::Environment => Credentials::from_environment(variable)?,
        CredentialSource::Instance => Credentials::Instance {
            endpoint: variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").filter(|url| !url.is_empty()),
        },
    })
}
