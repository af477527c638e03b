//! Creates, changes and deletes inbound routes.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::view::{InboundRouteChangeBody, InboundRouteView, NewInboundRouteBody};
use super::{NO_ROUTE, load_view};
use crate::accept::request::resources::inbound_route::{self, NewAction};
use crate::db::changes::{Outdated, TenantSettings};
use crate::db::receiving::routes::{self, ActionColumns, Inserted, MAX_ROUTES};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::InboundRouteId;
use crate::domain::inbound::{InboundAction, RouteMatch};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, NotFound, ProblemCode};

/// Create an inbound route
///
/// Messages to the addresses that it matches are received from now on, on other replicas within a second. The MX record of the domain
/// must lead to the SMTP server of this service (`inbound.listen`). A message is stored (`GET /v1/received`), and has the event
/// `message.received`. With the action `relay`, it is also passed on, unchanged, to the server in `action.to`.
#[utoipa::path(
    post, path = "/v1/inbound-routes", tag = "inbound-routes", operation_id = "create_inbound_route",
    request_body = NewInboundRouteBody,
    responses(
        (status = 201, description = "The inbound route", body = InboundRouteView,
         headers(("Location" = String, description = "The path of the inbound route"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A route with this match exists (`inbound_route_exists`), or the domain belongs to somebody else (`inbound_domain_taken`)"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let (route, action) = inbound_route::parse(&body.bytes)?;
    let (now, tenant) = (api.clock.now(), caller.tenant());
    let id = InboundRouteId::new(now);
    let stored = StoredAction::new(&api, id, action)?;
    require_inserted(routes::insert(&api.db, tenant, id, (&route, stored.columns()), now).await?, &route)?;
    api.forget(Outdated::Settings(tenant, TenantSettings::InboundRoutes));
    tracing::info!(
        event = "inbound_route_created",
        by = %caller.key_id(),
        route = %id,
        domain = route.domain,
        "created an inbound route"
    );
    let view = load_view(&api, tenant, id).await?;
    caller.note_after(&id, &view);
    Ok(with_location(format!("/v1/inbound-routes/{id}"), (StatusCode::CREATED, Json(view))))
}

/// An action as it is stored.
struct StoredAction {
    action: InboundAction,
    url: Option<Vec<u8>>,
    shown: Option<String>,
}

impl StoredAction {
    /// Checks the server of the action, and encrypts its URL.
    fn new(api: &Api, id: InboundRouteId, NewAction { kind: action, to }: NewAction) -> Result<Self, ApiError> {
        let Some(target) = to else { return Ok(Self { action, url: None, shown: None }) };
        let fault = |message: String| {
            let code = Code::InvalidValue.as_str();
            ApiError::Invalid(vec![Fault { pointer: "/action/to".into(), code, message }])
        };
        api.receiver.check_relay(&target.relay).map_err(fault)?;
        let url = target.seal(api.domains.keyring.as_ref(), id).map_err(|error| fault(error.to_string()))?;
        Ok(Self { action, url: Some(url), shown: Some(target.relay.to_string()) })
    }

    fn columns(&self) -> ActionColumns<'_> {
        ActionColumns { action: self.action, relay_url: self.url.as_deref(), relay_to: self.shown.as_deref() }
    }
}

fn require_inserted(inserted: Inserted, route: &RouteMatch) -> Result<(), ApiError> {
    let conflict = |code, detail: String| Err(ApiError::Conflict { code, detail, retry_after: None });
    match inserted {
        Inserted::Done => Ok(()),
        Inserted::Exists => {
            conflict(ProblemCode::InboundRouteExists, format!("A route with the match `{route}` already exists."))
        }
        Inserted::DomainTaken => conflict(
            ProblemCode::InboundDomainTaken,
            format!("The domain {} cannot have inbound routes here: it belongs to somebody else.", route.domain),
        ),
        Inserted::TooMany => Err(ApiError::Invalid(vec![Fault {
            pointer: "/match".into(),
            code: Code::TooMany.as_str(),
            message: format!("at most {MAX_ROUTES} inbound routes are allowed; use `PREFIX+*@DOMAIN` or `*@DOMAIN`"),
        }])),
    }
}

/// Update an inbound route
///
/// Changes the action. To change the match, create another route.
#[utoipa::path(
    patch, path = "/v1/inbound-routes/{id}", tag = "inbound-routes", operation_id = "update_inbound_route",
    params(("id" = String, Path, description = "The id of the inbound route")),
    request_body = InboundRouteChangeBody,
    responses(
        (status = 200, description = "The updated inbound route", body = InboundRouteView),
        AuthErrors, NotFound, JsonErrors,
    ),
)]
pub async fn change(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<InboundRouteId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<InboundRouteView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let action = inbound_route::parse_change(&body.bytes)?;
    let before = load_view(&api, caller.tenant(), id).await?;
    let stored = StoredAction::new(&api, id, action)?;
    if routes::set_action(&api.db, caller.tenant(), id, stored.columns()).await? {
        api.forget(Outdated::Settings(caller.tenant(), TenantSettings::InboundRoutes));
        tracing::info!(event = "inbound_route_changed", by = %caller.key_id(), route = %id, "changed an inbound route");
    }
    let after = load_view(&api, caller.tenant(), id).await?;
    caller.note_change(&id, &before, &after);
    Ok(Json(after))
}

/// Delete an inbound route
///
/// Messages to its addresses are refused from now on, on other replicas within a second, unless another route matches them. The
/// messages that it received are kept.
#[utoipa::path(
    delete, path = "/v1/inbound-routes/{id}", tag = "inbound-routes", operation_id = "delete_inbound_route",
    params(("id" = String, Path, description = "The id of the inbound route")),
    responses((status = 204, description = "Deleted"), AuthErrors, NotFound),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<InboundRouteId>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    let before = load_view(&api, caller.tenant(), id).await?;
    if !routes::remove(&api.db, caller.tenant(), id).await? {
        return Err(NO_ROUTE);
    }
    api.forget(Outdated::Settings(caller.tenant(), TenantSettings::InboundRoutes));
    caller.note_removed(&id, &before);
    tracing::info!(event = "inbound_route_removed", by = %caller.key_id(), route = %id, "removed an inbound route");
    Ok(StatusCode::NO_CONTENT)
}
