//! Builds the settings of the API from the configuration.

use std::sync::Arc;

use super::{delivery, domains, message_limits, outbound_http};
use crate::app::retention_periods;
use crate::config::Config;
use crate::db::changes::Caches;
use crate::db::{Db, RestoreGate};
use crate::domain::key::Secret;
use crate::http::{self, MetricsAccess, Readiness};
use crate::rendering::Renderer;

/// Returns the settings of the API.
pub(in crate::app) fn new(
    config: &Config,
    db: &Db,
    caches: &Arc<Caches>,
    renderer: Arc<Renderer>,
    readiness: Arc<Readiness>,
    restore_gate: Arc<RestoreGate>,
) -> anyhow::Result<http::Settings> {
    Ok(http::Settings {
        max_body: u64::from(config.accept.max_body_mib) << 20,
        max_inbound: config.inbound.max_message(),
        max_upload: u64::from(config.accept.max_upload_mib) << 20,
        body_memory: u64::from(config.accept.body_memory_mib) << 20,
        limits: message_limits::limits(config),
        delivery: delivery::delivery_info(config)?,
        periods: retention_periods(config),
        check_target: outbound_http::target_check(config)?,
        domains: domains::settings(config, db, caches)?,
        links: config.unsubscribe_links(),
        renderer,
        trusted_proxies: config.http.proxies(),
        auth_failures_per_minute: config.http.auth_failures_per_minute,
        cell: config.cell(),
        resend: config.resend.enabled,
        relayed_as_delivered: config.resend.relayed_as_delivered,
        fetcher: outbound_http::fetcher(config)?.map(Arc::new),
        readiness,
        restore_gate,
        metrics_access: MetricsAccess {
            networks: config.metrics.networks(),
            token: config.metrics.token.as_ref().map(|token| Secret::hash(token.expose())),
        },
    })
}
