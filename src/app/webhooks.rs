//! Where webhooks may be, as the API asks it and whoever posts to them.

use std::sync::Arc;

use anyhow::Context as _;

use crate::config::Config;
use crate::dns;
use crate::http::TargetCheck;
use crate::webhook::Guard;

/// Where webhooks may go.
pub fn guard(config: &Config) -> anyhow::Result<Guard> {
    let dns = dns::resolver(config.dns).context("cannot set up the DNS resolver")?;
    Ok(Guard::new(dns, config.webhooks.allowed()))
}

/// The same guard before an endpoint is made or moved: one that could never be posted to is refused at once.
pub(super) fn target_check(config: &Config) -> anyhow::Result<TargetCheck> {
    let guard = Arc::new(guard(config)?);
    Ok(TargetCheck::new(move |url| {
        let guard = guard.clone();
        Box::pin(async move { guard.admits(&url).await.map_err(|denied| denied.to_string()) })
    }))
}
