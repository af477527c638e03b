//! Liveness and readiness probes.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::http::{Api, ApiError};

/// The result of a successful probe.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Health {
    /// The status; always `ok`.
    #[schema(example = "ok")]
    pub status: &'static str,
    /// The version of Postrider.
    #[schema(example = "0.1.0")]
    pub version: &'static str,
}

pub(in crate::http) const OK: Health = Health { status: "ok", version: env!("CARGO_PKG_VERSION") };

/// Liveness probe
///
/// Does not check the database, since restarting this process would not fix it.
#[utoipa::path(
    get, path = "/healthz", tag = "health", operation_id = "healthz",
    responses((status = 200, description = "Alive", body = Health)),
)]
pub async fn healthz() -> Json<Health> {
    Json(OK)
}

/// Readiness probe
///
/// Checks that the database is available and has the schema of this version, and that the process is not about to stop. A
/// process that only sends is not ready either while the restore guard holds.
#[utoipa::path(
    get, path = "/readyz", tag = "health", operation_id = "readyz",
    responses(
        (status = 200, description = "Ready", body = Health),
        (status = 503, description = "Not ready; `detail` has the reason"),
    ),
)]
pub async fn readyz(State(api): State<Api>) -> Result<Json<Health>, ApiError> {
    api.readiness.check(&api.db).await?;
    Ok(Json(OK))
}
