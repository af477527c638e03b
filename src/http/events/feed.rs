//! `GET /v1/events`.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::ACCEPT;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use tokio::time::{Instant, timeout_at};

use super::stream;
use crate::db::events;
use crate::db::events::feed::{Filter, Part};
use crate::domain::event::{Event, EventType};
use crate::domain::fault::{Code, Fault};
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::params::Params;
use crate::http::{Api, ApiError, Problem};

/// Events a page has unless the caller says otherwise, and how many it may have.
const LIMITS: (i64, i64) = (100, 1_000);
/// The longest wait, in seconds: proxies commonly give up at 60.
const LONGEST_WAIT: u64 = 55;

/// A part of the feed.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventPage)]
pub struct Page {
    /// Events in the order of their `seq`.
    pub data: Vec<Event>,
    /// Whether there are more now: ask again at once.
    pub has_more: bool,
    /// What to pass as `after` next time. Never null: every event up to it has been looked at.
    pub next: String,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
enum Start {
    After(i64),
    /// Behind what has happened so far.
    Latest,
}

/// Read what happened
///
/// Every event of all mail, in order and without gaps: an application that remembers `next` misses nothing and sees nothing
/// twice. With `Accept: text/event-stream` they come as Server-Sent Events, each with its `seq` as `id`; after a
/// broken connection `Last-Event-ID` goes on where it broke. With a key that has `sender_domains`, only events of messages
/// from those domains: the numbers in between belong to others.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "list_events",
    params(
        ("after" = Option<String>, Query, pattern = "^([0-9]{1,18}|latest)$", description = "Only events with a higher `seq`; `latest`: only those that happen from now on. All that are kept unless given"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1_000, description = "How many; 100 unless given"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 55, description = "Where there is none, wait so many seconds for the next one"),
        ("type" = Option<String>, Query, description = "Only events of these types, separated by commas"),
        ("message_id" = Option<String>, Query, description = "Only events of this message"),
        ("Last-Event-ID" = Option<String>, Header, description = "As `after`, which it overrules; browsers send it. Of a stream only"),
    ),
    responses(
        (status = 200, description = "A page of events, or a stream of them", content(
            (Page = "application/json"), (String = "text/event-stream"))),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A parameter is not valid", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Too many streams and long polls at one time; `Retry-After` says when to try again", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    caller.may(Scope::Read)?;
    let (start, filter) = (start(&mut params), filter(&mut params, &caller));
    let limit = params.read("limit", "Give a number from 1 to 1000.", |text| {
        text.parse().ok().filter(|limit| (1..=LIMITS.1).contains(limit))
    });
    let wait = params.read("wait", "Give seconds, from 0 to 55.", |text| {
        text.parse().ok().filter(|seconds| *seconds <= LONGEST_WAIT)
    });
    params.finish()?;
    let tenant = caller.tenant();
    if wants_stream(&headers) {
        let after = begin(&api, tenant, last_event_id(&headers)?.unwrap_or(start)).await?;
        let turn = api.followers.take(caller.key_id()).await?;
        return Ok(stream::of(api, caller, turn, filter, after).into_response());
    }
    let after = begin(&api, tenant, start).await?;
    let _turn = match wait {
        Some(1..) => Some(api.followers.take(caller.key_id()).await?),
        _ => None,
    };
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let part = when_any(&api, &caller, &filter, after, limit.unwrap_or(LIMITS.0), until).await?;
    Ok(Json(Page::of(part)).into_response())
}

/// Events above `after`; where there are none, the next ones until that time.
async fn when_any(
    api: &Api,
    caller: &Caller,
    filter: &Filter,
    mut after: i64,
    limit: i64,
    until: Instant,
) -> Result<Part, ApiError> {
    let tenant = caller.tenant();
    loop {
        let part = events::feed::part(&api.db, tenant, filter, after, limit).await?;
        after = part.next;
        if !part.events.is_empty() || part.has_more || Instant::now() >= until {
            return Ok(part);
        }
        let mut is_news = None;
        while is_news.is_none() && Instant::now() < until {
            let soon = (Instant::now() + stream::KEY_CHECK).min(until);
            is_news = timeout_at(soon, api.event_notifier.beyond(tenant, after)).await.ok();
            // A key that was revoked meanwhile hears no more.
            caller.again(api).await?.may(Scope::Read)?;
        }
        if is_news != Some(true) {
            return Ok(part);
        }
    }
}

/// The number behind which to begin. One that nobody was given is from another database, and would wait for ever.
async fn begin(api: &Api, tenant: TenantId, start: Start) -> Result<i64, ApiError> {
    let after = match start {
        Start::After(after) => after,
        Start::Latest => return last(api, tenant).await,
    };
    if after > 0 {
        let last = last(api, tenant).await?;
        if after > last {
            let message = format!("There is no event {after}: the last one is {last}. Was the database restored?");
            return Err(fault("after", message));
        }
    }
    Ok(after)
}

async fn last(api: &Api, tenant: TenantId) -> Result<i64, ApiError> {
    Ok(events::feed::last(&api.db, &[tenant.0]).await?.first().map_or(0, |(_, seq)| *seq))
}

fn start(params: &mut Params) -> Start {
    params
        .read("after", "Give the `next` of the page before, or `latest`.", |text| match text {
            "latest" => Some(Start::Latest),
            _ => number(text),
        })
        .unwrap_or(Start::After(0))
}

fn number(text: &str) -> Option<Start> {
    text.parse().ok().filter(|seq| *seq >= 0).map(Start::After)
}

fn filter(params: &mut Params, caller: &Caller) -> Filter {
    let types = params.read("type", "Give types such as `message.bounced,message.deferred`.", |text| {
        text.split(',').map(|word| Some(word.trim().parse::<EventType>().ok()?.to_string())).collect()
    });
    let message = params.read("message_id", "Give a message's id.", |text| text.parse().ok());
    Filter { types, message, sender_domains: caller.sender_domains().map(<[String]>::to_vec) }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream")))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<Start>, ApiError> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let start = value.to_str().ok().and_then(number);
    start.map(Some).ok_or_else(|| fault("Last-Event-ID", "Give the `id` of the last event that you have.".into()))
}

fn fault(pointer: &str, message: String) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: Code::InvalidValue.as_str(), message }])
}

impl Page {
    fn of(part: Part) -> Self {
        Self {
            data: part.events.into_iter().map(Event::from).collect(),
            has_more: part.has_more,
            next: part.next.to_string(),
        }
    }
}
