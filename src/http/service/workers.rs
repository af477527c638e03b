//! `GET /v1/workers`.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use uuid::Uuid;

use super::view::WorkerView;
use crate::db::workers::{self, WorkerRow};
use crate::domain::id::WorkerId;
use crate::domain::installation::fingerprint::{Fingerprints, differences};
use crate::http::auth::Operator;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// Maximum number of workers that the checks look at.
const MAX_WORKERS: i64 = 1_000;

/// List workers
///
/// Returns the processes that deliver messages, the one that has run longest first. A worker without a heartbeat for its
/// lease time is dead: another one releases its recipients, and removes it from the list.
#[utoipa::path(
    get, path = "/v1/workers", tag = "service", operation_id = "list_workers",
    params(PageParams),
    responses((status = 200, description = "A page of workers", body = Page<WorkerView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    Operator(caller): Operator,
    mut params: Params,
) -> Result<Json<Page<WorkerView>>, ApiError> {
    let limit = params.limit();
    let after: Option<WorkerId> =
        params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let rows = workers::page(&api.db, after.map(|id| id.0), limit + 1).await?;
    let newest = newest_settings(&workers::page(&api.db, None, MAX_WORKERS).await?);
    let leased = match workers::leased(&api.db).await {
        // A long queue is not counted either.
        Err(error) if error.is_too_slow() => None,
        leased => leased?,
    };
    let show = |row: WorkerRow| view(row, &newest, leased.as_ref());
    Ok(Json(Page::new(rows, limit, |row| WorkerId(row.id).to_string(), show)))
}

/// Returns all workers.
pub(super) async fn all(api: &Api) -> Result<Vec<WorkerView>, ApiError> {
    let rows = workers::page(&api.db, None, MAX_WORKERS).await?;
    let newest = newest_settings(&rows);
    Ok(rows.into_iter().map(|row| view(row, &newest, None)).collect())
}

/// Returns the settings of the worker that started last, which has the configuration that all should have.
fn newest_settings(rows: &[WorkerRow]) -> Fingerprints {
    let newest = rows.iter().filter(|row| row.is_alive).max_by_key(|row| row.started_at);
    newest.map(settings).unwrap_or_default()
}

fn settings(row: &WorkerRow) -> Fingerprints {
    serde_json::from_value(row.settings.clone()).unwrap_or_default()
}

fn view(row: WorkerRow, newest: &Fingerprints, leased: Option<&HashMap<Uuid, i64>>) -> WorkerView {
    WorkerView {
        differing_settings: differences(newest, &settings(&row)),
        id: WorkerId(row.id),
        host: row.host,
        pid: row.pid,
        version: row.version,
        status: if row.is_alive { "alive" } else { "dead" },
        started_at: row.started_at,
        heartbeat_at: row.heartbeat_at,
        lease_until: row.lease_until,
        in_flight: leased.map(|leased| leased.get(&row.id).copied().unwrap_or(0)),
    }
}
