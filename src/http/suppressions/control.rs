//! Adding to the list and taking off it.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use super::view::{AddedView, RemovalsInput, RemovedView, SuppressionsInput};
use super::{NOT_SUPPRESSED, PathAddress};
use crate::accept::request::Context;
use crate::accept::request::suppression::{self, chosen_stream};
use crate::db::suppressions::list::Removal;
use crate::db::suppressions::{self, Existing};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::params::Params;
use crate::http::{Api, ApiError, Problem};

/// Suppress addresses
///
/// One entry, or an array of up to 1,000: all of them or none. From now on nothing is sent there, nor what was accepted
/// before and is not yet in flight. With the scope `send` an entry that is there stays, unless the new one lasts longer;
/// with `admin` the new one takes its place. A key with `sender_domains` adds none without `admin`: an entry holds for mail
/// from every domain.
#[utoipa::path(
    post, path = "/v1/suppressions", tag = "suppressions", operation_id = "add_suppressions",
    request_body = SuppressionsInput,
    responses(
        (status = 200, description = "What was added and changed", body = AddedView),
        (status = 400, description = "Malformed JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Request body too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Invalid request; `errors` lists every fault", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AddedView>, ApiError> {
    caller.may(Scope::Send)?;
    caller.may_reach_the_tenant("The suppression list holds for")?;
    let body = api.bodies.json(&headers, body).await?;
    let (now, streams) = (api.clock.now(), api.acceptor.streams(caller.tenant()).await?);
    let context = Context { now, limits: &api.limits, streams: &streams };
    let entries = suppression::parse(&body.octets, &context)?;
    let count = entries.len();
    let existing = if caller.has(Scope::Admin) { Existing::Replaced } else { Existing::Kept };
    let added = suppressions::put(&api.db, caller.tenant(), entries, existing, now).await?;
    let view = AddedView::from(added);
    tracing::info!(event = "suppressions_added", by = %caller.key_id(), entries = count, "added suppressions");
    Ok(Json(view))
}

/// Free an address
///
/// Removes all entries of the address, or with `stream` one of them. Mail that was suppressed stays so; send it anew.
#[utoipa::path(
    delete, path = "/v1/suppressions/{address}", tag = "suppressions", operation_id = "remove_suppression",
    params(
        ("address" = String, Path, description = "The address; case-insensitive"),
        ("stream" = Option<String>, Query, description = "Only the entry of this stream; `*` for the one that holds for all streams"),
    ),
    responses(
        (status = 204, description = "Nothing of it suppresses the address any more"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Not found", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Invalid parameter", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathAddress(address): PathAddress,
    mut params: Params,
) -> Result<StatusCode, ApiError> {
    caller.may(Scope::Admin)?;
    let stream = params.text("stream").map(|word| chosen_stream(&word));
    params.finish()?;
    let removal = Removal { address, stream };
    let removed = suppressions::list::remove(&api.db, caller.tenant(), &[removal], api.clock.now()).await?;
    if removed == 0 {
        return Err(NOT_SUPPRESSED);
    }
    tracing::info!(event = "suppressions_removed", by = %caller.key_id(), entries = removed, "removed suppressions");
    Ok(StatusCode::NO_CONTENT)
}

/// Free many addresses
///
/// One, or an array of up to 1,000. Those that are not on the list are passed over.
#[utoipa::path(
    post, path = "/v1/suppressions/remove", tag = "suppressions", operation_id = "remove_suppressions",
    request_body = RemovalsInput,
    responses(
        (status = 200, description = "How many entries were removed", body = RemovedView),
        (status = 400, description = "Malformed JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Request body too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is not `application/json`", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Invalid request; `errors` lists every fault", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn remove_many(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RemovedView>, ApiError> {
    caller.may(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let removals = suppression::parse_removal(&body.octets)?;
    let removed = suppressions::list::remove(&api.db, caller.tenant(), &removals, api.clock.now()).await?;
    tracing::info!(event = "suppressions_removed", by = %caller.key_id(), entries = removed, "removed suppressions");
    Ok(Json(RemovedView { removed }))
}
