//! Checks of what other servers see of this service, for its metrics: whether blocklists name its address, and when its
//! certificates expire.

pub mod blocklists;
mod certificate;

use std::path::PathBuf;

use tokio_util::task::AbortOnDropHandle;

use super::Roles;
use crate::config::Config;

/// Starts the checks. They end when the handles are dropped.
pub(super) fn start(config: &Config, roles: Roles) -> anyhow::Result<Vec<AbortOnDropHandle<()>>> {
    let mut checks = Vec::new();
    if roles != Roles::Worker {
        let chains = [&config.inbound.cert_file, &config.submission.cert_file];
        let chains: Vec<PathBuf> = chains.into_iter().flatten().cloned().collect();
        if !chains.is_empty() {
            checks.push(AbortOnDropHandle::new(tokio::spawn(certificate::record_expiry_periodically(chains))));
        }
    }
    if roles != Roles::Api && !config.delivery.blocklists.is_empty() {
        let blocklists = blocklists::Checks::new(config)?;
        checks.push(AbortOnDropHandle::new(tokio::spawn(blocklists.run())));
    }
    Ok(checks)
}
