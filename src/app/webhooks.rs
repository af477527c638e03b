//! Builds the check of the addresses of webhook endpoints, for the API and for the workers.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::Config;
use crate::dns;
use crate::http::TargetCheck;
use crate::webhook::Guard;

/// Creates the guard that decides to which addresses events may be posted.
pub fn guard(config: &Config) -> anyhow::Result<Guard> {
    let dns = dns::resolver(config.dns).context("cannot set up the DNS resolver")?;
    Ok(Guard::new(dns, config.webhooks.allowed()))
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
