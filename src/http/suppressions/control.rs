//! Adds and removes suppressions.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde_json::json;

use super::view::{AddedView, RemovalsInput, RemovedView, SuppressionView, SuppressionsInput};
use super::{NOT_SUPPRESSED, PathAddress};
use crate::accept::request::Context;
use crate::accept::request::resources::suppression::{self, stored_stream};
use crate::db::suppressions::list::Removal;
use crate::db::suppressions::{self, Existing};
use crate::domain::key::Scope;
use crate::domain::suppression::{AddressKey, Suppression};
use crate::http::auth::Caller;
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, JsonErrors, NotFound};

/// Add suppressions
///
/// Adds one entry or an array of up to 1,000, all or none. From now on, nothing is sent to these addresses, including
/// messages that were accepted before and are not yet in flight. With the scope `send`, a new entry replaces an
/// existing one only if it lasts longer; with `admin`, always. A key with `sender_domains` cannot add entries, since
/// they apply to messages from every domain.
#[utoipa::path(
    post, path = "/v1/suppressions", tag = "suppressions", operation_id = "add_suppressions",
    request_body = SuppressionsInput,
    responses(
        (status = 200, description = "The numbers of added and updated entries", body = AddedView),
        AuthErrors, JsonErrors,
    ),
)]
pub async fn add(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AddedView>, ApiError> {
    caller.require(Scope::Send)?;
    caller.require_all_domains("The suppression list applies to all sender domains.")?;
    let body = api.bodies.json(&headers, body).await?;
    put(&api, &caller, &body.bytes).await.map(Json)
}

/// Adds the entries in the body of a request.
pub(in crate::http) async fn put(api: &Api, caller: &Caller, body: &[u8]) -> Result<AddedView, ApiError> {
    let (now, streams) = (api.clock.now(), api.acceptor.streams(caller.tenant()).await?);
    let context = Context::new(now, &api.limits, &streams);
    let entries = suppression::parse(body, &context)?;
    let count = entries.len();
    let addresses = addresses(entries.iter().map(|entry| &entry.address));
    let existing = if caller.has_scope(Scope::Admin) { Existing::Replaced } else { Existing::KeptUnlessShorter };
    let added = suppressions::put(&api.db, caller.tenant(), entries, existing, now).await?;
    let view = AddedView::from(added);
    caller.note_result(&json!({"addresses": addresses, "result": view}));
    tracing::info!(event = "suppressions_added", by = %caller.key_id(), entries = count, "added suppressions");
    Ok(view)
}

/// Remove suppressions of an address
///
/// Removes all entries of the address, or only the one of `stream`. Suppressed recipients of earlier messages stay
/// suppressed; send those messages again.
#[utoipa::path(
    delete, path = "/v1/suppressions/{address}", tag = "suppressions", operation_id = "remove_suppression",
    params(
        ("address" = String, Path, description = "The address; case-insensitive"),
        ("stream" = Option<String>, Query, description = "Only the entry of this stream; `*` for the entry that applies to all streams"),
    ),
    responses((status = 204, description = "Removed"), AuthErrors, NotFound, InvalidParameter),
)]
pub async fn remove(
    State(api): State<Api>,
    caller: Caller,
    PathAddress(address): PathAddress,
    mut params: Params,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    let stream = params.text("stream").map(|stream| stored_stream(&stream));
    params.finish()?;
    let removal = Removal { address, stream };
    let before = matching(&api, &caller, &removal).await?;
    let removals = std::slice::from_ref(&removal);
    let removed = suppressions::list::remove(&api.db, caller.tenant(), removals, api.clock.now()).await?;
    if removed == 0 {
        return Err(NOT_SUPPRESSED);
    }
    caller.note_removed(&removal.address, &before);
    tracing::info!(event = "suppressions_removed", by = %caller.key_id(), entries = removed, "removed suppressions");
    Ok(StatusCode::NO_CONTENT)
}

/// Returns the entries that a removal would delete.
async fn matching(api: &Api, caller: &Caller, removal: &Removal) -> Result<Vec<SuppressionView>, ApiError> {
    let entries = suppressions::list::for_address(&api.db, caller.tenant(), &removal.address, api.clock.now()).await?;
    let stream = removal.stream.as_deref();
    let is_removed =
        |entry: &Suppression| stream.is_none_or(|name| entry.stream.as_deref().unwrap_or_default() == name);
    Ok(entries.into_iter().filter(is_removed).map(SuppressionView::from).collect())
}

/// Remove suppressions
///
/// Removes one entry or an array of up to 1,000. Addresses that are not on the list are ignored.
#[utoipa::path(
    post, path = "/v1/suppressions/remove", tag = "suppressions", operation_id = "remove_suppressions",
    request_body = RemovalsInput,
    responses(
        (status = 200, description = "The number of removed entries", body = RemovedView),
        AuthErrors, JsonErrors,
    ),
)]
pub async fn remove_many(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<RemovedView>, ApiError> {
    caller.require(Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let removals = suppression::parse_removal(&body.bytes)?;
    remove_all(&api, &caller, &removals).await.map(Json)
}

/// Removes entries.
pub(in crate::http) async fn remove_all(
    api: &Api,
    caller: &Caller,
    removals: &[Removal],
) -> Result<RemovedView, ApiError> {
    let removed = suppressions::list::remove(&api.db, caller.tenant(), removals, api.clock.now()).await?;
    let view = RemovedView { removed };
    let addresses = addresses(removals.iter().map(|removal| &removal.address));
    caller.note_result(&json!({"addresses": addresses, "result": view}));
    tracing::info!(event = "suppressions_removed", by = %caller.key_id(), entries = removed, "removed suppressions");
    Ok(view)
}

/// Maximum number of addresses of one request that the audit log records.
const MAX_RECORDED: usize = 100;

/// Returns the addresses that the audit log records.
fn addresses<'a>(all: impl Iterator<Item = &'a AddressKey>) -> Vec<String> {
    all.take(MAX_RECORDED).map(ToString::to_string).collect()
}
