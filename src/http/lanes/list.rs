//! `GET /v1/lanes`.

use axum::Json;
use axum::extract::State;

use super::view::LaneView;
use super::{shown, shown_one};
use crate::db::DbError;
use crate::db::lanes;
use crate::db::lanes::overview::{Cursor, Filter};
use crate::domain::fault::{Code, Fault};
use crate::domain::id::LaneId;
use crate::domain::key::Scope;
use crate::domain::lane::{Lane, State as LaneState};
use crate::domain::routing::RouteName;
use crate::http::auth::Caller;
use crate::http::page::Page;
use crate::http::params::{Params, PathId};
use crate::http::{Api, ApiError, Problem};

/// List lanes
///
/// What waits where, and why. Lanes that are paused, blocked or throttled come first, then the others; among each the
/// oldest first. Filters are joined by "and". A lane that gets into trouble, or out of it, between two pages stands where it
/// belongs by then. Counts are exact up to 10,000.
#[utoipa::path(
    get, path = "/v1/lanes", tag = "lanes", operation_id = "list_lanes",
    params(
        ("stream" = Option<String>, Query, description = "The stream's name"),
        ("route" = Option<String>, Query, description = "`mx`, `relay` or `relay:NAME`"),
        ("domain" = Option<String>, Query, description = "The destination domain; `*` for lanes of a whole relay"),
        ("state" = Option<LaneState>, Query, description = "Whether the lane moves"),
        ("waiting" = Option<bool>, Query, description = "With `true` only lanes in which recipients wait, due now or later; with `false` only the others"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 100, description = "How many; 20 unless given"),
        ("after" = Option<String>, Query, description = "The `next` of the page before"),
    ),
    responses(
        (status = 200, description = "A page of lanes", body = Page<LaneView>),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is not valid", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<LaneView>>, ApiError> {
    caller.may(Scope::Read)?;
    caller.may_reach_the_tenant("Lanes hold the messages of")?;
    let limit = params.limit();
    let filter = filter(&mut params);
    params.finish()?;
    let _turn = api.turns.take(caller.key_id()).await?;
    let lanes = lanes::overview::lanes(&api.db, caller.tenant(), &filter, limit + 1, api.clock.now())
        .await
        .map_err(too_broad)?;
    let Page { data, has_more, next } = Page::of(lanes, limit, cursor, |lane| lane);
    Ok(Json(Page { data: shown(&api, data).await?, has_more, next }))
}

/// Read a lane
#[utoipa::path(
    get, path = "/v1/lanes/{id}", tag = "lanes", operation_id = "get_lane",
    params(("id" = String, Path, description = "The lane's id")),
    responses(
        (status = 200, description = "The lane and what waits in it", body = LaneView),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such lane", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn get(
    State(api): State<Api>,
    caller: Caller,
    PathId(id): PathId<LaneId>,
) -> Result<Json<LaneView>, ApiError> {
    caller.may(Scope::Read)?;
    caller.may_reach_the_tenant("Lanes hold the messages of")?;
    shown_one(&api, caller.tenant(), id).await.map(Json)
}

fn filter(params: &mut Params) -> Filter {
    Filter {
        ids: None,
        stream: params.text("stream"),
        route: params.read("route", "Give `mx`, `relay` or `relay:NAME`.", |text| {
            RouteName::parse(text).map(|_| text.to_owned())
        }),
        domains: params.text("domain").map(|domain| vec![a_label(&domain)]),
        state: params.read("state", "Give `open`, `throttled`, `blocked` or `paused`.", |word| word.parse().ok()),
        waiting: params.read("waiting", "Give `true` or `false`.", |word| word.parse().ok()),
        after: params.read("after", "Give the `next` of the page before.", read_cursor),
    }
}

/// A domain as lanes carry it; what is none is looked for as it is, and not found.
fn a_label(domain: &str) -> String {
    let address = format!("postmaster@{domain}").parse::<crate::domain::address::Address>();
    address.map_or_else(|_| domain.to_owned(), |address| address.domain().to_owned())
}

fn cursor(lane: &Lane) -> String {
    format!("{}.{}", if lane.state == LaneState::Open { "open" } else { "held" }, lane.id)
}

fn read_cursor(text: &str) -> Option<Cursor> {
    let (rank, id) = text.split_once('.')?;
    let is_open = match rank {
        "open" => true,
        "held" => false,
        _ => return None,
    };
    Some(Cursor { is_open, id: id.parse().ok()? })
}

/// Very many lanes may take too long to be put in order.
fn too_broad(error: DbError) -> ApiError {
    if !error.is_too_slow() {
        return error.into();
    }
    ApiError::Invalid(vec![Fault {
        pointer: "stream".into(),
        code: Code::TooBroad.as_str(),
        message: "The search took too long. Narrow it with `stream`, `route`, `domain`, `state` or `waiting`.".into(),
    }])
}
