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
use crate::db::events::feed::{FeedPage, Filter};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::event::{Event, EventType};
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// Default page size.
const DEFAULT_LIMIT: i64 = 100;
/// Maximum page size.
const MAX_LIMIT: i64 = 1_000;
/// Maximum long poll, in seconds: proxies commonly time out after 60.
const MAX_WAIT_SECONDS: u64 = 55;

/// A page of events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = EventPage)]
pub struct Page {
    /// Events, ordered by `seq`.
    pub data: Vec<Event>,
    /// Whether more events exist now.
    #[schema(example = false)]
    pub has_more: bool,
    /// The cursor to pass as `after` in the next request. Never null: it advances even if no event matches the filters.
    #[schema(example = "1201")]
    pub next: String,
}

/// The position at which a read of the feed starts.
#[derive(Debug, Clone, Copy)]
enum StartPosition {
    /// After the event with this `seq`.
    After(i64),
    /// After the last stored event.
    Latest,
}

/// List events
///
/// Returns the events of all messages in order and without gaps: an application that stores `next` receives each event
/// exactly once. With `Accept: text/event-stream`, events are sent as Server-Sent Events with `seq` as their `id`; send
/// `Last-Event-ID` to resume after a disconnect. A key with `sender_domains` gets only events of messages from those
/// domains, so their `seq` numbers are not consecutive.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "list_events",
    params(
        ("after" = Option<String>, Query, pattern = "^([0-9]{1,18}|latest)$", description = "Only events with a higher `seq`; `latest`: only events from now on. Defaults to the oldest stored event"),
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 1_000, description = "Page size; defaults to 100"),
        ("wait" = Option<u64>, Query, minimum = 0, maximum = 55, description = "Long poll: how many seconds to wait for an event if there is none"),
        ("type" = Option<String>, Query, description = "Only events of these types, separated by commas"),
        ("message_id" = Option<String>, Query, description = "Only events of this message"),
        ("Last-Event-ID" = Option<String>, Header, description = "For event streams only: overrides `after`; browsers send it when they reconnect"),
    ),
    responses(
        (status = 200, description = "A page of events, or a stream of them", content(
            (Page = "application/json"), (String = "text/event-stream"))),
        AuthErrors, InvalidParameter,
        (status = 410, description = "Events after `after` were deleted because of their age (`cursor_expired`)"),
        (status = 503, description = "Too many concurrent event streams and long polls; retry after `Retry-After`"),
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    mut params: Params,
) -> Result<Response, ApiError> {
    caller.require(Scope::Metadata)?;
    let (start, filter) = (start(&mut params), filter(&mut params, &caller));
    let limit = params.read("limit", "Pass a number from 1 to 1000.", |text| {
        text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
    });
    let wait = params.read("wait", "Pass seconds, from 0 to 55.", |text| {
        text.parse().ok().filter(|seconds| *seconds <= MAX_WAIT_SECONDS)
    });
    params.finish()?;
    let tenant = caller.tenant();
    if wants_stream(&headers) {
        let after = resolve_start(&api, tenant, last_event_id(&headers)?.unwrap_or(start)).await?;
        let permit = api.long_requests.acquire(caller.requester()).await?;
        return Ok(stream::respond(api, caller, permit, filter, after).into_response());
    }
    let after = resolve_start(&api, tenant, start).await?;
    let _permit = match wait {
        Some(1..) => Some(api.long_requests.acquire(caller.requester()).await?),
        _ => None,
    };
    let until = Instant::now() + Duration::from_secs(wait.unwrap_or(0));
    let page = wait_for_events(&api, &caller, &filter, after, limit.unwrap_or(DEFAULT_LIMIT), until).await?;
    check_gap(&api, tenant, after, &page).await?;
    Ok(Json(Page::new(page)).into_response())
}

/// Returns events with a `seq` above `after`; if there are none, waits for new events until `until`.
async fn wait_for_events(
    api: &Api,
    caller: &Caller,
    filter: &Filter,
    mut after: i64,
    limit: i64,
    until: Instant,
) -> Result<FeedPage, ApiError> {
    let tenant = caller.tenant();
    loop {
        let page = events::feed::page(&api.db, tenant, filter, after, limit).await?;
        after = page.next;
        if !page.events.is_empty() || page.has_more || Instant::now() >= until {
            return Ok(page);
        }
        let mut has_new = None;
        while has_new.is_none() && Instant::now() < until {
            let soon = (Instant::now() + stream::KEY_CHECK).min(until);
            has_new = timeout_at(soon, api.event_notifier.wait_beyond(tenant, after)).await.ok();
            // The key may have been revoked in the meantime.
            caller.refresh(api).await?.require(Scope::Metadata)?;
        }
        if has_new != Some(true) {
            return Ok(page);
        }
    }
}

/// Returns the `seq` to start after. Refuses a `seq` above the last event: it comes from another database, and the
/// request would wait forever. Refuses one whose next event was deleted, so that no reader misses events unnoticed.
async fn resolve_start(api: &Api, tenant: TenantId, start: StartPosition) -> Result<i64, ApiError> {
    let after = match start {
        StartPosition::After(after) => after,
        StartPosition::Latest => return last_seq(api, tenant).await,
    };
    let deleted = events::feed::deleted_up_to(&api.db, tenant).await?;
    if after > 0 {
        let last = last_seq(api, tenant).await?;
        if after > last {
            let message = format!("Event {after} does not exist; the last event is {last}. Was the database restored?");
            return Err(fault("after", message));
        }
        if after < deleted {
            return Err(ApiError::cursor_expired(after, deleted));
        }
    }
    // 0 is the start of what is stored.
    Ok(after.max(deleted))
}

/// Refuses a page that may lack events which were deleted after the start was checked.
pub(super) async fn check_gap(api: &Api, tenant: TenantId, after: i64, page: &FeedPage) -> Result<(), ApiError> {
    let is_complete = i64::try_from(page.events.len()).is_ok_and(|count| page.next == after + count);
    if is_complete || after == 0 {
        return Ok(());
    }
    match events::feed::deleted_up_to(&api.db, tenant).await? {
        deleted if after < deleted => Err(ApiError::cursor_expired(after, deleted)),
        _ => Ok(()),
    }
}

/// Returns the `seq` of the tenant's last event; 0 if there is none.
async fn last_seq(api: &Api, tenant: TenantId) -> Result<i64, ApiError> {
    Ok(events::feed::last(&api.db, &[tenant.0]).await?.first().map_or(0, |(_, seq)| *seq))
}

fn start(params: &mut Params) -> StartPosition {
    params
        .read("after", "Pass the `next` value of the previous page, or `latest`.", |text| match text {
            "latest" => Some(StartPosition::Latest),
            _ => parse_seq(text),
        })
        .unwrap_or(StartPosition::After(0))
}

fn parse_seq(text: &str) -> Option<StartPosition> {
    text.parse().ok().filter(|seq| *seq >= 0).map(StartPosition::After)
}

fn filter(params: &mut Params, caller: &Caller) -> Filter {
    let types = params.read("type", "Pass event types such as `message.bounced,message.deferred`.", |text| {
        text.split(',').map(|name| Some(name.trim().parse::<EventType>().ok()?.to_string())).collect()
    });
    let message = params.read("message_id", "Pass a message id.", |text| text.parse().ok());
    Filter { types, message, sender_domains: caller.sender_domains().map(<[String]>::to_vec) }
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted
        .flat_map(|value| value.split(','))
        .any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/event-stream")))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<StartPosition>, ApiError> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let start = value.to_str().ok().and_then(parse_seq);
    start.map(Some).ok_or_else(|| fault("Last-Event-ID", "Pass the `id` of the last event received.".into()))
}

fn fault(pointer: &str, message: String) -> ApiError {
    ApiError::Invalid(vec![Fault { pointer: pointer.into(), code: Code::InvalidValue.as_str(), message }])
}

impl Page {
    fn new(page: FeedPage) -> Self {
        Self {
            data: page.events.into_iter().map(Event::from).collect(),
            has_more: page.has_more,
            next: page.next.to_string(),
        }
    }
}
