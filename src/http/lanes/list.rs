//! `GET /v1/lanes` and `GET /v1/lanes/{id}`.

use axum::Json;
use axum::extract::State;

use super::view::LaneView;
use super::{load_one, load_views};
use crate::db::DbError;
use crate::db::lanes;
use crate::db::lanes::overview::{Cursor, Filter};
use crate::domain::id::LaneId;
use crate::domain::key::Scope;
use crate::domain::lane::{Lane, State as LaneState};
use crate::domain::routing::RouteName;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::{Params, PathId};
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter, NotFound};

/// List lanes
///
/// Returns lanes with their state and queue counts. Lanes that are paused, blocked or throttled come before open lanes;
/// within each group, the oldest come first. A lane must match all filters. A lane whose state changes between two
/// pages may be missing or appear twice. Counts are exact up to 10,000.
#[utoipa::path(
    get, path = "/v1/lanes", tag = "lanes", operation_id = "list_lanes",
    params(
        ("stream" = Option<String>, Query, description = "The name of the stream"),
        ("route" = Option<String>, Query, description = "The route: `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`"),
        ("domain" = Option<String>, Query, description = "The destination domain; `*` for the lanes of relays that serve all domains without a separate lane"),
        ("state" = Option<LaneState>, Query, description = "The state of the lane"),
        ("waiting" = Option<bool>, Query, description = "`true`: only lanes with waiting recipients, due now or later; `false`: only lanes without"),
        PageParams,
    ),
    responses((status = 200, description = "A page of lanes", body = Page<LaneView>), AuthErrors, InvalidParameter),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<LaneView>>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Lanes hold the messages of all sender domains.")?;
    let limit = params.limit();
    let filter = filter(&mut params);
    params.finish()?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let lanes = lanes::overview::lanes(&api.db, caller.tenant(), &filter, limit + 1, api.clock.now())
        .await
        .map_err(too_broad)?;
    let Page { data, has_more, next } = Page::new(lanes, limit, cursor, |lane| lane);
    Ok(Json(Page { data: load_views(&api, data).await?, has_more, next }))
}

/// Get a lane
///
/// Returns the lane's state, limits and queue counts.
#[utoipa::path(
    get, path = "/v1/lanes/{id}", tag = "lanes", operation_id = "get_lane",
    params(("id" = String, Path, description = "The id of the lane")),
    responses((status = 200, description = "The lane", body = LaneView), AuthErrors, NotFound),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<LaneView>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Lanes hold the messages of all sender domains.")?;
    load_one(&api, caller.tenant(), id).await.map(Json)
}

fn filter(params: &mut Params) -> Filter {
    Filter {
        ids: None,
        stream: params.text("stream"),
        route: params.read("route", "Pass `mx`, `relay`, `relay:NAME`, `inbound:ID` or `simulator`.", |text| {
            RouteName::parse(text).map(|_| text.to_owned())
        }),
        domains: params.text("domain").map(|domain| vec![a_label(&domain)]),
        state: params.read("state", "Pass `open`, `throttled`, `blocked` or `paused`.", |text| text.parse().ok()),
        waiting: params.read("waiting", "Pass `true` or `false`.", |text| text.parse().ok()),
        after: params.read("after", "Pass the `next` value of the previous page.", parse_cursor),
    }
}

/// Returns a domain in A-labels, as lanes store it. An invalid domain is returned unchanged; it matches no lane.
fn a_label(domain: &str) -> String {
    let address = format!("postmaster@{domain}").parse::<crate::domain::address::Address>();
    address.map_or_else(|_| domain.to_owned(), |address| address.domain().to_owned())
}

fn cursor(lane: &Lane) -> String {
    format!("{}.{}", if lane.state == LaneState::Open { "open" } else { "held" }, lane.id)
}

fn parse_cursor(text: &str) -> Option<Cursor> {
    let (rank, id) = text.split_once('.')?;
    let is_open = match rank {
        "open" => true,
        "held" => false,
        _ => return None,
    };
    Some(Cursor { is_open, id: id.parse().ok()? })
}

fn too_broad(error: DbError) -> ApiError {
    let advice = "The search took too long. Narrow it with `stream`, `route`, `domain`, `state` or `waiting`.";
    ApiError::search(error, "stream", advice)
}
