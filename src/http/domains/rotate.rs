//! `POST /v1/domains/{name}/rotate`.

use axum::Json;
use axum::extract::State;

use super::view::DomainView;
use super::{DomainName, NO_DOMAIN, load_view, new_keys};
use crate::db::domains::{self, Rotated};
use crate::http::auth::Caller;
use crate::http::{Api, ApiError, AuthErrors, NotFound, ProblemCode};

/// Rotate a domain's DKIM keys
///
/// Creates a pair of new keys. Each starts to sign once its DNS record is found; until then the current key signs. Keep
/// the DNS records of the current keys for a week after their last signature.
#[utoipa::path(
    post, path = "/v1/domains/{name}/rotate", tag = "domains", operation_id = "rotate_domain_keys",
    params(("name" = String, Path, description = "The name of the domain")),
    responses(
        (status = 200, description = "The domain with the records to publish", body = DomainView),
        AuthErrors, NotFound,
        (status = 409, description = "New keys are already pending (`rotation_pending`), or no `secret_key` is configured (`no_secret_key`)"),
    ),
)]
pub async fn rotate(
    State(api): State<Api>,
    caller: Caller,
    DomainName(name): DomainName,
) -> Result<Json<DomainView>, ApiError> {
    caller.require_live_admin("domains")?;
    let tenant = caller.live_tenant();
    let before = load_view(&api, tenant, &name).await?;
    let keys = new_keys(&api, tenant, &name).await?;
    match domains::rotate(&api.db, tenant, &name, &keys, &api.domains.dns_settings.algorithms, api.clock.now()).await? {
        Rotated::Pending => {
            tracing::info!(event = "domain_keys_rotated", by = %caller.key_id(), domain = name, "created DKIM keys");
            let after = load_view(&api, tenant, &name).await?;
            caller.note_change(&name, &before, &after);
            Ok(Json(after))
        }
        Rotated::Missing => Err(NO_DOMAIN),
        Rotated::Already => Err(ApiError::Conflict {
            code: ProblemCode::RotationPending,
            detail: format!(
                "{name} has pending keys. Publish the records that GET /v1/domains/{name} lists, then call \
                 POST /v1/domains/{name}/verify."
            ),
            retry_after: None,
        }),
    }
}
