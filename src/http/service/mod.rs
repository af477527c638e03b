//! `/v1/workers` and `/v1/service`: the state of the installation, for callers with the scope `operator`.

mod checks;
mod view;
pub mod workers;

use axum::Json;
use axum::extract::State;

use super::auth::Operator;
use super::request::params::Params;
use super::{Api, ApiError, AuthErrors, InvalidParameter};
use crate::clock::{Clock as _, SystemClock};
use crate::db::pool::server;
use crate::db::{overview, service_metrics};

use checks::Findings;
use view::{DatabaseView, ServiceView};

/// Get the state of the service
///
/// Returns the state of the database, and the results of the checks that `postrider doctor` makes of the service: what stops
/// or delays messages and events, of all tenants together, with the fix. Sizes are measured about every 15 seconds by one
/// process.
#[utoipa::path(
    get, path = "/v1/service", tag = "service", operation_id = "get_service",
    responses((status = 200, description = "The state of the service", body = ServiceView), AuthErrors, InvalidParameter),
)]
pub async fn get(
    State(api): State<Api>,
    Operator(caller): Operator,
    params: Params,
) -> Result<Json<ServiceView>, ApiError> {
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let state = server::state(&api.db).await?;
    // Of the machine's clock, because `api.clock` follows the database's; and before other queries, which take time.
    let clock_skew = SystemClock.now() - state.reading.time;
    let findings = Findings {
        overview: overview::overview(&api.db, api.clock.now()).await?,
        workers: workers::all(&api).await?,
        durability: crate::db::pool::durability::check(&api.db).await?,
        figures: service_metrics::load(&api.db).await?,
        clock_skew,
        restore: api.restore_gate.problem(),
        now: api.clock.now(),
    };
    let database = DatabaseView::new(findings.overview.server_version.clone(), state.connections, &findings);
    Ok(Json(ServiceView {
        version: env!("CARGO_PKG_VERSION"),
        processes: state.connections.processes,
        database,
        checks: findings.checks(),
    }))
}
