//! Event streams: Server-Sent Events (WHATWG HTML § 9.2).

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::response::IntoResponse;
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream;
use tokio::time::{Instant, timeout_at};

use super::feed::check_gap;
use crate::db::events;
use crate::db::events::feed::Filter;
use crate::domain::event::Event;
use crate::domain::id::TenantId;
use crate::domain::key::Scope;
use crate::http::Api;
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::ConcurrencyPermit;

/// Maximum duration of one connection. The client reconnects with `Last-Event-ID`.
const MAX_DURATION: Duration = Duration::from_mins(15);
/// Interval at which the key of an event stream or a long poll is checked.
pub(super) const KEY_CHECK: Duration = Duration::from_secs(1);
/// Keep-alive interval, for proxies that close silent connections.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Delay after which clients reconnect.
const RETRY: Duration = Duration::from_secs(2);
/// Events per query.
const PAGE_SIZE: i64 = 100;

/// The state of one event stream.
struct EventStream {
    api: Api,
    caller: Caller,
    /// The time of the next check of the key.
    check_at: Instant,
    tenant: TenantId,
    filter: Filter,
    after: i64,
    /// Events read and not yet sent.
    read: VecDeque<Event>,
    until: Instant,
    _permit: ConcurrencyPermit,
}

/// Streams the events with a `seq` above `after`, stored and future ones.
pub(super) fn respond(
    api: Api,
    caller: Caller,
    permit: ConcurrencyPermit,
    filter: Filter,
    after: i64,
) -> impl IntoResponse {
    let (tenant, now) = (caller.tenant(), Instant::now());
    let reader = EventStream {
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
    let retry_delay = stream::once(async { Ok(sse::Event::default().retry(RETRY)) });
    let events = futures_util::StreamExt::chain(retry_delay, events);
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

impl EventStream {
    /// Returns the next event; `None` if the connection should end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if !self.has_valid_key().await {
                return None;
            }
            if let Some(event) = self.read.pop_front() {
                return Some(event);
            }
            if Instant::now() >= self.until || self.api.event_notifier.is_stopping() {
                return None;
            }
            match events::feed::page(&self.api.db, self.tenant, &self.filter, self.after, PAGE_SIZE).await {
                Ok(page) => {
                    // A slow reader's next events may have been deleted. When it reconnects, it gets 410 and where to continue.
                    if check_gap(&self.api, self.tenant, self.after, &page).await.is_err() {
                        return None;
                    }
                    self.after = page.next;
                    self.read.extend(page.events.into_iter().map(Event::from));
                    if self.read.is_empty() && !page.has_more && !self.wait_for_more().await {
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

    /// Waits for more events. Returns `false` if the connection should end.
    async fn wait_for_more(&mut self) -> bool {
        loop {
            let soon = self.check_at.min(self.until);
            match timeout_at(soon, self.api.event_notifier.wait_beyond(self.tenant, self.after)).await {
                Ok(has_new) => return has_new,
                Err(_) if Instant::now() >= self.until || !self.has_valid_key().await => return false,
                Err(_) => {}
            }
        }
    }

    /// Returns whether the key is still valid. Checks it about once a second. Also returns `false` if the check
    /// cannot be made.
    async fn has_valid_key(&mut self) -> bool {
        if Instant::now() < self.check_at {
            return true;
        }
        self.check_at = Instant::now() + KEY_CHECK;
        let caller = self.caller.refresh(&self.api).await;
        if let Err(error) = &caller {
            tracing::info!(
                event = "event_stream_ended",
                ?error,
                "ended event stream; its API key is no longer valid or cannot be checked"
            );
        }
        caller.is_ok_and(|caller| caller.require(Scope::Metadata).is_ok())
    }
}
