//! Events as they happen: Server-Sent Events (WHATWG HTML § 9.2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use crate::db::feed::{self, Filter};
use crate::domain::event::Event;
use crate::domain::id::TenantId;
use crate::http::Api;

/// How long one connection lasts. The client comes again with `Last-Event-ID`, and its key is looked at anew.
const LASTS: Duration = Duration::from_mins(15);
/// A sign of life for proxies that close what is silent.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// When a client may come again.
const RETRY: Duration = Duration::from_secs(2);
/// Events read at a time.
const PAGE: i64 = 100;

struct Reader {
    api: Api,
    tenant: TenantId,
    filter: Filter,
    after: i64,
    /// Read and not sent yet.
    read: VecDeque<Event>,
    until: Instant,
}

/// The events above `after`, and all that follow.
pub(super) fn of(api: Api, tenant: TenantId, filter: Filter, after: i64) -> impl IntoResponse {
    let until = Instant::now() + LASTS;
    let reader = Reader { api, tenant, filter, after, read: VecDeque::new(), until };
    let events = stream::unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        let shown = sse::Event::default().id(event.seq.to_string()).event(&event.kind).json_data(&event);
        Some((Ok::<_, Infallible>(shown.unwrap_or_default()), reader))
    });
    let hello = stream::once(async { Ok(sse::Event::default().retry(RETRY)) });
    let events = futures_util::StreamExt::chain(hello, events);
    Sse::new(events).keep_alive(KeepAlive::new().interval(SIGN_OF_LIFE))
}

impl Reader {
    /// The next event; none where the connection is to end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.read.pop_front() {
                return Some(event);
            }
            if Instant::now() >= self.until || self.api.news.is_over() {
                return None;
            }
            match feed::part(&self.api.db, self.tenant, &self.filter, self.after, PAGE).await {
                Ok(part) => {
                    self.after = part.next;
                    self.read.extend(part.events.into_iter().map(Event::from));
                    if self.read.is_empty() && !part.has_more && !self.waited().await {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "could not read events; the client comes again");
                    return None;
                }
            }
        }
    }

    /// Waits for more. Answers `false` where the connection is to end.
    async fn waited(&mut self) -> bool {
        timeout_at(self.until, self.api.news.beyond(self.tenant, self.after)).await == Ok(true)
    }
}
