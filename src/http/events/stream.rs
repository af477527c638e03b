//! Event streams: Server-Sent Events (WHATWG HTML § 9.2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use crate::db::events;
use crate::db::events::feed::Filter;
use crate::domain::event::Event;
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::concurrency_limit::ConcurrencyPermit;

/// Maximum duration of one connection. The client reconnects with `Last-Event-ID`.
const MAX_DURATION: Duration = Duration::from_mins(15);
/// How often the key of an event stream or a long poll is checked.
pub(super) const KEY_CHECK: Duration = Duration::from_secs(1);
/// Keep-alive interval, for proxies that close silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Reconnection delay of clients.
const RETRY: Duration = Duration::from_secs(2);
/// Events per query.
const PAGE: i64 = 100;

struct Reader {
    api: Api,
    caller: Caller,
    /// When the key is checked next.
    check_at: Instant,
    tenant: TenantId,
    filter: Filter,
    after: i64,
    /// Events read and not yet sent.
    read: VecDeque<Event>,
    until: Instant,
    _permit: ConcurrencyPermit,
}

/// Streams the events above `after`, and all that follow.
pub(super) fn respond(
    api: Api,
    caller: Caller,
    permit: ConcurrencyPermit,
    filter: Filter,
    after: i64,
) -> impl IntoResponse {
    let (tenant, now) = (caller.tenant(), Instant::now());
    let reader = Reader {
        api,
        caller,
        check_at: now + KEY_CHECK,
        tenant,
        filter,
        after,
        read: VecDeque::new(),
        until: now + MAX_DURATION,
        _permit: permit,
    };
    let events = stream::unfold(reader, async |mut reader| {
        let event = reader.next().await?;
        let sent = sse::Event::default().id(event.seq.to_string()).event(&event.kind).json_data(&event);
        Some((Ok::<_, Infallible>(sent.unwrap_or_default()), reader))
    });
    let hello = stream::once(async { Ok(sse::Event::default().retry(RETRY)) });
    let events = futures_util::StreamExt::chain(hello, events);
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl Reader {
    /// Returns the next event; `None` if the connection is to end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if !self.may_go_on().await {
                return None;
            }
            if let Some(event) = self.read.pop_front() {
                return Some(event);
            }
            if Instant::now() >= self.until || self.api.event_notifier.is_over() {
                return None;
            }
            match events::feed::part(&self.api.db, self.tenant, &self.filter, self.after, PAGE).await {
                Ok(part) => {
                    self.after = part.next;
                    self.read.extend(part.events.into_iter().map(Event::from));
                    if self.read.is_empty() && !part.has_more && !self.waited().await {
                        return None;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "failed to read events; ending the stream, the client reconnects");
                    return None;
                }
            }
        }
    }

    /// Waits for more events. Returns `false` if the connection is to end.
    async fn waited(&mut self) -> bool {
        loop {
            let soon = self.check_at.min(self.until);
            match timeout_at(soon, self.api.event_notifier.beyond(self.tenant, self.after)).await {
                Ok(has_new) => return has_new,
                Err(_) if Instant::now() >= self.until || !self.may_go_on().await => return false,
                Err(_) => {}
            }
        }
    }

    /// Returns whether the key is still valid, checking about once a second.
    async fn may_go_on(&mut self) -> bool {
        if Instant::now() < self.check_at {
            return true;
        }
        self.check_at = Instant::now() + KEY_CHECK;
        let caller = self.caller.refresh(&self.api).await;
        if let Err(error) = &caller {
            tracing::info!(event = "event_stream_ended", ?error, "ended event stream; its API key is no longer valid");
        }
        caller.is_ok_and(|caller| caller.may(Scope::Read).is_ok())
    }
}
