//! Registers and removes domains.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::view::{DomainView, NewDomainBody};
use super::{DomainName, NO_DOMAIN, load_view, new_keys};
use crate::accept::request;
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::domains;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound, ProblemCode};

/// Register a domain
///
/// Creates an Ed25519 and an RSA-2048 key. Within a second, both sign messages from the domain and from its
/// subdomains that are not registered. Receivers ignore these signatures until the DNS records are published: publish
/// the records in the response, then call `POST /v1/domains/{name}/verify`.
#[utoipa::path(
    post, path = "/v1/domains", tag = "domains", operation_id = "create_domain",
    request_body = NewDomainBody,
    responses(
        (status = 201, description = "The domain with the records to publish", body = DomainView,
         headers(("Location" = String, description = "The path of the domain"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "The domain is already registered (`domain_exists`), or no `secret_key` is configured (`no_secret_key`)"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require_live_admin("domains")?;
    let body = api.bodies.json(&headers, body).await?;
    let name = request::resources::domain::parse(&body.bytes)?;
    let view = register(&api, &caller, name).await?;
    Ok(with_location(format!("/v1/domains/{}", view.name), (StatusCode::CREATED, Json(view))))
}

/// Registers a domain with new keys.
pub(in crate::http) async fn register(api: &Api, caller: &Caller, name: String) -> Result<DomainView, ApiError> {
    let tenant = caller.live_tenant();
    let exists = || ApiError::Conflict {
        code: ProblemCode::DomainExists,
        detail: format!("{name} is already registered; GET /v1/domains/{name} lists its records."),
        retry_after: None,
    };
    // Checked before the keys are generated, which takes about 100 ms.
    if domains::get(&api.db, tenant, &name).await?.is_some() {
        return Err(exists());
    }
    let keys = new_keys(api, tenant, &name).await?;
    if !domains::insert(&api.db, tenant, &name, &keys, api.clock.now()).await? {
        return Err(exists());
    }
    api.forget(Outdated::Settings(tenant, TenantSettings::Domains));
    tracing::info!(event = "domain_created", by = %caller.key_id(), domain = name, "registered a domain");
    let view = load_view(api, tenant, &name).await?;
    caller.note_after(&name, &view);
    Ok(view)
}

/// Remove a domain
///
/// Deletes the domain's keys; its messages are sent without its signatures from now on. Keep the DKIM records in the
/// DNS for another week, for signed messages that are still in transit.
#[utoipa::path(
    delete, path = "/v1/domains/{name}", tag = "domains", operation_id = "delete_domain",
    params(("name" = String, Path, description = "The name of the domain")),
    responses((status = 204, description = "Removed"), AuthErrors, NotFound),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    DomainName(name): DomainName,
) -> Result<StatusCode, ApiError> {
    caller.require_live_admin("domains")?;
    unregister(&api, &caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Removes a domain; fails if it does not exist.
pub(in crate::http) async fn unregister(api: &Api, caller: &Caller, name: &str) -> Result<(), ApiError> {
    let before = load_view(api, caller.live_tenant(), name).await?;
    let was_removed = domains::remove(&api.db, caller.live_tenant(), name).await?;
    api.forget(Outdated::Settings(caller.live_tenant(), TenantSettings::Domains));
    if !was_removed {
        return Err(NO_DOMAIN);
    }
    caller.note_removed(&name, &before);
    tracing::info!(event = "domain_removed", by = %caller.key_id(), domain = name, "removed a domain");
    Ok(())
}
