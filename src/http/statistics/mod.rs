//! `GET /v1/statistics`: figures over time, counted from the events.

mod view;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};

use super::auth::Caller;
use super::request::params::Params;
use super::{Api, ApiError, AuthErrors};
use crate::db::DbError;
use crate::db::statistics::query::{self, MAX_POINTS_OF_SERIES, Queue, Selection, SeriesFigures};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::domain::provider::Provider;
use crate::domain::statistics::range::{MAX_POINTS, Range, RangeError};
use crate::domain::statistics::{GroupBy, Step};
use view::StatisticsView;

/// Get statistics
///
/// Returns what happened to messages in a time range: figures for each minute, hour or day, and their totals. Events
/// count at the time at which they were recorded, per recipient: a recipient that is relayed and bounces an hour later
/// counts in both hours.
///
/// The figures follow the events by a few seconds; `as_of` says how far. They are kept longer than the messages: minutes
/// for 48 hours, hours for 366 days, days forever.
#[utoipa::path(
    get, path = "/v1/statistics", tag = "statistics", operation_id = "get_statistics",
    params(
        ("since" = Option<DateTime<Utc>>, Query, description = "Start of the time range (RFC 3339), rounded down to a whole step; defaults to an hour before `until` for minutes, 24 hours for hours, 30 days for days"),
        ("until" = Option<DateTime<Utc>>, Query, description = "End of the time range, exclusive (RFC 3339), rounded up to a whole step; defaults to now"),
        ("step" = Option<Step>, Query, description = "The length of the time spans; defaults to `hour`. At most 2,880 fit into a range"),
        ("stream" = Option<String>, Query, description = "Only messages of this stream"),
        ("provider" = Option<Provider>, Query, description = "Only recipients of this mailbox provider; leaves out the queue"),
        ("group_by" = Option<GroupBy>, Query, description = "The series that the figures are divided into; one series by default"),
    ),
    responses(
        (status = 200, description = "The statistics", body = StatisticsView),
        AuthErrors,
        (status = 422, description = "Invalid parameter, or the time range has too many time spans or is older than they are kept"),
    ),
)]
pub async fn get(State(api): State<Api>, caller: Caller, params: Params) -> Result<Json<StatisticsView>, ApiError> {
    caller.require(Scope::Metadata)?;
    caller.require_all_domains("Statistics count the messages of all sender domains.")?;
    let now = api.clock.now();
    let selection = selection(params, now)?;
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    // Read first, so that it is not later than the figures.
    let as_of = query::as_of(&api.db, caller.tenant(), now).await?;
    let figures = query::figures(&api.db, caller.tenant(), &selection).await.map_err(too_slow)?;
    let mut figures = figures.ok_or_else(too_many)?;
    let queue = if has_queue(&selection) {
        let queue = query::queue(&api.db, caller.tenant(), &selection).await.map_err(too_slow)?;
        Some(queue.ok_or_else(too_many)?)
    } else {
        None
    };
    add_series(&mut figures, &selection, queue.as_ref());
    check_size(&figures, selection.range)?;
    Ok(Json(StatisticsView::new(&selection, as_of, figures, queue)))
}

/// The queue is not divided by provider, nor by category of bounces.
fn has_queue(selection: &Selection) -> bool {
    selection.provider.is_none() && !matches!(selection.group_by, Some(GroupBy::Provider | GroupBy::Category))
}

/// Adds the series that have no events.
fn add_series(figures: &mut SeriesFigures, selection: &Selection, queue: Option<&Queue>) {
    if selection.group_by.is_none() {
        figures.entry(None).or_default();
    }
    // A stream may have a queue and no events.
    for sample in queue.iter().flat_map(|queue| &queue.samples) {
        if !figures.contains_key(&sample.name) {
            figures.insert(sample.name.clone(), BTreeMap::new());
        }
    }
}

fn selection(mut params: Params, now: DateTime<Utc>) -> Result<Selection, ApiError> {
    let (since, until) = (params.timestamp("since"), params.timestamp("until"));
    let step = params.read("step", "Pass `minute`, `hour` or `day`.", Step::parse).unwrap_or(Step::Hour);
    let stream = params.text("stream");
    let names = Provider::ALL.map(|provider| format!("`{}`", provider.as_str())).join(", ");
    let provider = params.read("provider", &format!("Pass one of {names}."), Provider::parse);
    let group_by = params.read("group_by", "Pass `stream`, `provider` or `category`.", GroupBy::parse);
    params.finish()?;
    let range = Range::new(step, since, until, now).map_err(|error| range_fault(error, step))?;
    Ok(Selection { range, stream, provider, group_by })
}

fn range_fault(error: RangeError, step: Step) -> ApiError {
    let longer = match step {
        Step::Minute => "`step=hour` or `step=day`",
        Step::Hour | Step::Day => "`step=day`",
    };
    match error {
        RangeError::Empty => fault("until", Code::InvalidTimestamp, "Pass a time later than `since`.".into()),
        RangeError::TooLong(points) => {
            let word = step.as_str();
            let advice = if step == Step::Day { String::new() } else { format!(", or {longer}") };
            let message = format!(
                "The time range has {points} time spans of one {word}; at most {MAX_POINTS} are returned. Pass a shorter range{advice}."
            );
            fault("since", Code::TooBroad, message)
        }
        RangeError::TooOld(from) => {
            let (word, from) = (step.as_str(), from.format("%Y-%m-%dT%H:%M:%SZ"));
            let message = format!("Figures of each {word} are kept since {from}. Pass a later time, or {longer}.");
            fault("since", Code::InvalidTimestamp, message)
        }
    }
}

fn check_size(figures: &SeriesFigures, range: Range) -> Result<(), ApiError> {
    if figures.len() * range.points() <= MAX_POINTS_OF_SERIES {
        return Ok(());
    }
    let message = format!(
        "{} series with {} points each are too many. Pass a shorter time range, a longer `step`, or filters.",
        figures.len(),
        range.points()
    );
    Err(fault("group_by", Code::TooBroad, message))
}

fn too_many() -> ApiError {
    let message = format!(
        "There are figures of more than {MAX_POINTS_OF_SERIES} points. Pass a shorter time range, a longer `step`, or filters."
    );
    fault("group_by", Code::TooBroad, message)
}

fn too_slow(error: DbError) -> ApiError {
    ApiError::search(error, "since", "Reading the figures took too long. Pass a shorter time range or a longer `step`.")
}

fn fault(pointer: &str, code: Code, message: String) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: code.as_str(), message }])
}
