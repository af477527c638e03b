//! Live updates: the event stream of the API, for the browser. `app.js` uses the ids in it to refresh the rows that they
//! are about.
//!
//! The API ends a stream when its key is revoked. The end of the session is checked here: before events are passed on, about
//! once a second. After a minute the stream ends anyway, and the browser connects again.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Query, Request};
use axum::http::{Method, header};
use axum::response::Response;
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::call::with_query;
use super::error::UiError;
use super::session::Visitor;

/// Maximum duration of one connection. The browser reconnects with `Last-Event-ID`.
const MAX_DURATION: Duration = Duration::from_mins(1);
/// Minimum interval between two checks of the session.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The query of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct LiveQuery {
    /// The `seq` of the last event that the browser knows; `Last-Event-ID` overrides it. By default, only new events are
    /// sent.
    #[serde(default = "latest")]
    after: String,
}

fn latest() -> String {
    "latest".to_owned()
}

/// Streams the tenant's events.
pub(super) async fn events(
    visitor: Visitor,
    Query(query): Query<LiveQuery>,
    request: Request,
) -> Result<Response, UiError> {
    let path = with_query("/v1/events", &[("after", &query.after)]);
    let mut call = Request::builder().method(Method::GET).uri(path).header(header::ACCEPT, "text/event-stream");
    if let Some(last) = request.headers().get("last-event-id") {
        call = call.header("last-event-id", last);
    }
    let call = call.body(Body::empty()).map_err(|error| UiError::unreadable(&error))?;
    let response = visitor.run(call).await?;
    Ok(response.map(|body| {
        let now = Instant::now();
        let live = Live {
            events: body.into_data_stream(),
            visitor,
            check_at: now + CHECK_INTERVAL,
            until: now + MAX_DURATION,
        };
        Body::from_stream(stream::unfold(live, async |mut live| Some((live.next().await?, live))))
    }))
}

/// The state of one stream.
struct Live {
    events: BodyDataStream,
    visitor: Visitor,
    /// The time of the next check of the session.
    check_at: Instant,
    until: Instant,
}

impl Live {
    /// Returns the next bytes; `None` if the stream should end. The API also sends a comment every 15 seconds.
    async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        let bytes = timeout_at(self.until, self.events.next()).await.ok()??;
        if Instant::now() >= self.check_at {
            if !self.visitor.is_signed_in().await {
                return None;
            }
            self.check_at = Instant::now() + CHECK_INTERVAL;
        }
        Some(bytes)
    }
}
