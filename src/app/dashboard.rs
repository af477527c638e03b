//! Builds the dashboard.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::dev::inbox::Inbox;
use crate::http::{Api, InProcessApi};
use crate::ui::Dashboard;

/// Time limit of the statements of its pages.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Builds the dashboard with a pool of its own, if it is enabled.
pub(super) fn build(
    config: &Config,
    api: &Api,
    clock: SharedClock,
    inbox: Option<Arc<Inbox>>,
) -> anyhow::Result<Option<Dashboard>> {
    if !config.dashboard.enabled {
        return Ok(None);
    }
    let db = super::open_pool(config, config.dashboard.pool_size, TIMEOUT.min(config.database.timeout), true, None)?;
    let public_url = config.public_url.as_ref().map(url::Url::as_str);
    Ok(Some(Dashboard::new(InProcessApi::new(api, db, inbox), clock, public_url)))
}
