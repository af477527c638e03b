//! Whether the process lives, and whether it can serve.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::{Api, ApiError, Problem};

/// All is well.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// Always `ok`.
    pub status: &'static str,
    /// Which version runs.
    pub version: &'static str,
}

const OK: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Whether the process lives
///
/// Asks nothing of the database: a restart would not bring that back.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "healthz",
    responses((status = 200, description = "It does", body = Health)),
)]
pub async fn healthz() -> Json<Health> {
    Json(OK)
}

/// Whether requests can be served
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    responses(
        (status = 200, description = "They can", body = Health),
        (status = 503, description = "They cannot; `detail` says what is wrong with the database", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn readyz(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    api.db.ping().await?;
    Ok(Json(OK))
}
