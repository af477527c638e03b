//! Live updates: an event stream for the browser, in two forms. The list of messages gets the events of the API, whose ids
//! name the rows that changed. Every other page gets a digest: at most once a second, that something has happened. So an
//! open page costs little, however many events there are.
//!
//! The API ends a stream when its key is revoked. The end of the session is checked here: before events are passed on, about
//! once a second. After a minute the stream ends anyway, and the browser connects again.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::{Query, Request};
use axum::http::{Method, header};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep, timeout_at};

use super::call::with_query;
use super::error::UiError;
use super::session::Visitor;

/// Maximum duration of one connection.
const MAX_DURATION: Duration = Duration::from_mins(1);
/// Minimum interval between two checks of the session.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Minimum interval between two messages of a digest.
const DIGEST_INTERVAL: Duration = Duration::from_secs(1);
/// How long a digest waits for an event at a time, in seconds.
const WAIT_SECONDS: u64 = 10;
/// Keep-alive interval, for proxies that close silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The query of a stream.
#[derive(Debug, Deserialize)]
pub(super) struct LiveQuery {
    /// The `seq` of the last event that the browser knows; `Last-Event-ID` overrides it. By default, only new events are
    /// sent. A digest has only new ones.
    #[serde(default = "latest")]
    after: String,
    /// Whether to send a digest instead of the events.
    #[serde(default)]
    digest: bool,
    /// The message that a digest is about; empty: all messages.
    #[serde(default)]
    message_id: String,
}

fn latest() -> String {
    "latest".to_owned()
}

/// Streams the tenant's events, or a digest of them.
pub(super) async fn events(
    visitor: Visitor,
    Query(query): Query<LiveQuery>,
    request: Request,
) -> Result<Response, UiError> {
    if query.digest {
        return Digest::respond(visitor, query.message_id).await;
    }
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

/// The state of one stream of events.
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

/// A page of events, of which only the position counts.
#[derive(Debug, Deserialize)]
struct Position {
    data: Vec<IgnoredAny>,
    has_more: bool,
    next: String,
}

/// The state of one digest.
struct Digest {
    visitor: Visitor,
    /// The message that it is about; empty: all messages.
    message_id: String,
    /// The position in the feed up to which everything was reported.
    after: String,
    has_reported: bool,
    until: Instant,
}

impl Digest {
    /// Starts a digest. What happens from now on is reported, so the page can be read as soon as the response begins.
    async fn respond(visitor: Visitor, message_id: String) -> Result<Response, UiError> {
        let until = Instant::now() + MAX_DURATION;
        let mut digest = Self { visitor, message_id, after: latest(), has_reported: false, until };
        digest.after = digest.read(0).await?.next;
        let changes = stream::unfold(digest, async |mut digest| {
            digest.next().await?;
            Some((Ok::<_, Infallible>(sse::Event::default().event("changed").data("{}")), digest))
        });
        let begin = stream::once(async { Ok(sse::Event::default().comment("live")) });
        let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
        Ok(Sse::new(begin.chain(changes)).keep_alive(keep_alive).into_response())
    }

    /// Returns once something has happened; `None` if the stream should end.
    async fn next(&mut self) -> Option<()> {
        if std::mem::take(&mut self.has_reported) {
            sleep(DIGEST_INTERVAL).await;
            if self.message_id.is_empty() && self.skip_to_latest().await? {
                self.has_reported = true;
                return Some(());
            }
        }
        while Instant::now() < self.until && self.visitor.is_signed_in().await {
            let started = Instant::now();
            let page = self.read(WAIT_SECONDS).await.ok()?;
            self.after = page.next;
            if !page.data.is_empty() {
                self.has_reported = true;
                return Some(());
            }
            // Only a service that stops does not wait.
            if !page.has_more && started.elapsed() < Duration::from_secs(WAIT_SECONDS / 2) {
                return None;
            }
        }
        None
    }

    /// Moves to the end of the feed, and returns whether anything was skipped.
    async fn skip_to_latest(&mut self) -> Option<bool> {
        let reported = std::mem::replace(&mut self.after, latest());
        self.after = self.read(0).await.ok()?.next;
        Some(self.after != reported && self.visitor.is_signed_in().await && Instant::now() < self.until)
    }

    /// Reads events after the position; if there are none, waits for this number of seconds.
    async fn read(&self, wait: u64) -> Result<Position, UiError> {
        let wait = wait.to_string();
        // One event is enough to know. Those of one message are few.
        let limit = if self.message_id.is_empty() { "1" } else { "100" };
        let mut params = vec![("after", self.after.as_str()), ("limit", limit), ("wait", &wait)];
        if !self.message_id.is_empty() {
            params.push(("message_id", &self.message_id));
        }
        self.visitor.get(&with_query("/v1/events", &params)).await
    }
}
