//! `GET /v1/suppressions` and `GET /v1/suppressions/{address}`.

use axum::Json;
use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};

use super::view::{SuppressedAddress, SuppressionView};
use super::{NOT_SUPPRESSED, PathAddress};
use crate::accept::request::resources::suppression::stored_stream;
use crate::db::suppressions::list::Filter;
use crate::db::{DbError, suppressions};
use crate::domain::address::Address;
use crate::domain::key::Scope;
use crate::domain::suppression::{AddressKey, Reason, Suppression};
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List suppressions
///
/// Returns suppressions, newest first. An entry must match all filters. Expired entries are not listed.
#[utoipa::path(
    get, path = "/v1/suppressions", tag = "suppressions", operation_id = "list_suppressions",
    params(
        ("address" = Option<String>, Query, description = "Only entries of this address; case-insensitive"),
        ("stream" = Option<String>, Query, description = "Only entries of this stream; `*` for entries that apply to all streams"),
        ("reason" = Option<Reason>, Query, description = "Only entries with this reason"),
        ("created_after" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Created at or after this time (RFC 3339)"),
        ("created_before" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Created before this time (RFC 3339)"),
        PageParams,
    ),
    responses(
        (status = 200, description = "A page of suppressions", body = Page<SuppressionView>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<SuppressionView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("The suppression list applies to all sender domains.")?;
    let limit = params.limit();
    let filter = filter(&mut params);
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let rows = suppressions::list::page(&api.db, caller.tenant(), &filter, limit + 1, api.clock.now()).await;
    Ok(Json(Page::new(rows.map_err(too_broad)?, limit, cursor, SuppressionView::from)))
}

fn filter(params: &mut Params) -> Filter {
    Filter {
        address: params.read("address", "Pass an address such as ann@example.test.", |text| {
            text.parse::<Address>().ok().map(|address| AddressKey::from(&address))
        }),
        stream: params.text("stream").map(|stream| stored_stream(&stream)),
        reasons: params.read("reason", "Pass `hard_bounce`, `complaint`, `unsubscribe` or `manual`.", |text| {
            text.parse::<Reason>().ok().map(|reason| vec![reason])
        }),
        created_after: params.timestamp("created_after"),
        created_before: params.timestamp("created_before"),
        after: params.read("after", "Pass the `next` value of the previous page.", parse_cursor),
    }
}

/// Returns the cursor of an entry.
fn cursor(entry: &Suppression) -> String {
    let stream = entry.stream.as_deref().unwrap_or_default();
    // Neither the stream nor the address can contain a line break.
    URL_SAFE_NO_PAD.encode(format!("{}\n{stream}\n{}", entry.created_at.timestamp_micros(), entry.address))
}

/// Returns the position of a cursor: creation time, address and stream.
fn parse_cursor(cursor: &str) -> Option<(DateTime<Utc>, String, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok().filter(|text| !text.contains('\0'))?;
    let (micros, rest) = text.split_once('\n')?;
    let (stream, address) = rest.split_once('\n')?;
    let at = DateTime::from_timestamp_micros(micros.parse().ok()?)?;
    // The range that Postgres supports.
    (1970..9999).contains(&chrono::Datelike::year(&at)).then(|| (at, address.to_owned(), stream.to_owned()))
}

fn too_broad(error: DbError) -> ApiError {
    let advice = "The search took too long. Narrow it with `created_after` and `created_before`, or with `address`.";
    ApiError::search(error, "created_after", advice)
}

/// Get suppressions of an address
///
/// Returns all unexpired entries of the address: the entry that applies to all streams, and entries of single streams.
#[utoipa::path(
    get, path = "/v1/suppressions/{address}", tag = "suppressions", operation_id = "get_suppression",
    params(("address" = String, Path, description = "The address; case-insensitive")),
    responses(
        (status = 200, description = "The address with its entries", body = SuppressedAddress),
        AuthErrors, NotFound,
    ),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathAddress(address): PathAddress,
) -> Result<Json<SuppressedAddress>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("The suppression list applies to all sender domains.")?;
    let entries = suppressions::list::for_address(&api.db, caller.tenant(), &address, api.clock.now()).await?;
    if entries.is_empty() {
        return Err(NOT_SUPPRESSED);
    }
    let data = entries.into_iter().map(SuppressionView::from).collect();
    Ok(Json(SuppressedAddress { address: address.to_string(), data }))
}
