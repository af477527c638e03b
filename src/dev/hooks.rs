//! A webhook receiver in `postrider dev`: `POST /dev/hooks` returns 204 and stores the post, so that a person or a
//! test can read it.
//!
//! The newest `CAPACITY` posts are kept in memory. Signatures are shown but not verified, because only the endpoint's
//! creator knows its secret.

use std::collections::VecDeque;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi as Document;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::inbox::InboxError;
use super::routes::{read, wait_time};
use crate::clock::SharedClock;

mod page;

/// Maximum number of stored posts; the oldest are dropped first.
const CAPACITY: usize = 200;
/// Maximum size of a post, in bytes.
const MAX_BODY: usize = 1 << 20;

/// The received posts, newest first.
#[derive(Debug)]
pub struct Hooks {
    clock: SharedClock,
    posts: Mutex<VecDeque<HookPost>>,
    /// The number of the newest post.
    last: watch::Sender<u64>,
    stop: CancellationToken,
}

/// A post received at `/dev/hooks`.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct HookPost {
    /// The post's number, ascending from 1.
    #[schema(example = 1)]
    pub n: u64,
    /// When the post arrived.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub received_at: DateTime<Utc>,
    /// The `webhook-id` header: the same on every retry.
    #[schema(example = "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W")]
    pub webhook_id: Option<String>,
    /// The `webhook-timestamp` header.
    #[schema(example = "1767225600")]
    pub webhook_timestamp: Option<String>,
    /// The `webhook-signature` header.
    #[schema(example = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4=")]
    pub webhook_signature: Option<String>,
    /// The body: parsed if it is JSON, otherwise a string.
    #[schema(example = json!({"type": "webhook.test"}))]
    pub body: Value,
    /// The body as received, which the signature covers.
    #[schema(example = "{\"type\":\"webhook.test\"}")]
    pub raw_body: String,
}

/// A list of posts received at `/dev/hooks`.
#[derive(Debug, Serialize, ToSchema)]
pub struct HookPage {
    /// The posts, newest first.
    pub data: Vec<HookPost>,
}

impl Hooks {
    /// Creates an empty list. When `stop` is cancelled, waiting requests return.
    pub fn new(clock: SharedClock, stop: CancellationToken) -> Self {
        Self { clock, posts: Mutex::default(), last: watch::Sender::new(0), stop }
    }

    fn store(&self, headers: &HeaderMap, body: &[u8]) {
        let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let raw_body = String::from_utf8_lossy(body).into_owned();
        let body = serde_json::from_slice(body).unwrap_or_else(|_| raw_body.clone().into());
        let mut posts = self.lock_posts();
        let n = *self.last.borrow() + 1;
        posts.push_front(HookPost {
            n,
            received_at: self.clock.now(),
            webhook_id: text("webhook-id"),
            webhook_timestamp: text("webhook-timestamp"),
            webhook_signature: text("webhook-signature"),
            body,
            raw_body,
        });
        posts.truncate(CAPACITY);
        self.last.send_replace(n);
    }

    /// Returns the newest posts that match the query.
    fn list(&self, query: &HooksQuery) -> Vec<HookPost> {
        let has_type = |post: &HookPost| query.r#type.as_ref().is_none_or(|wanted| post.body["type"] == **wanted);
        let posts = self.lock_posts();
        let newer = posts.iter().filter(|post| post.n > query.after.unwrap_or(0));
        newer.filter(|post| has_type(post)).cloned().collect()
    }

    async fn wait(&self, query: &HooksQuery, deadline: Instant) {
        let mut last = self.last.subscribe();
        let arrives = async { while self.list(query).is_empty() && last.changed().await.is_ok() {} };
        // The caller reads the list again in either case.
        let _ = self.stop.run_until_cancelled(timeout_at(deadline, arrives)).await;
    }

    fn lock_posts(&self) -> MutexGuard<'_, VecDeque<HookPost>> {
        self.posts.lock()
    }
}

/// Returns the routes of the receiver.
pub fn router(hooks: Arc<Hooks>) -> Router {
    Router::from(routes()).route("/dev/hooks", get(page::show).post(receive)).with_state(hooks)
}

/// Returns the OpenAPI document of these routes.
pub fn document() -> Document {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<Arc<Hooks>> {
    OpenApiRouter::new().routes(routes!(list, clear))
}

async fn receive(State(hooks): State<Arc<Hooks>>, headers: HeaderMap, body: Body) -> Response {
    match to_bytes(body, MAX_BODY).await {
        Ok(body) => {
            hooks.store(&headers, &body);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(_) => StatusCode::PAYLOAD_TOO_LARGE.into_response(),
    }
}

/// The query of the list of posts.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct HooksQuery {
    /// Only events of this type.
    #[param(example = "message.relayed")]
    r#type: Option<String>,
    /// Only posts with a number above this one.
    #[param(example = 1)]
    after: Option<u64>,
    /// Seconds to wait for the first such post, at most 60; 0 by default.
    #[param(maximum = 60, example = 10)]
    wait: Option<u64>,
}

/// List received webhooks
///
/// Returns the posts received at `/dev/hooks` of this process, newest first, at most 200. To receive events, create a
/// webhook endpoint with that URL.
#[utoipa::path(
    get, path = "/v1/dev/hooks", tag = "dev", operation_id = "list_received_hooks", params(HooksQuery),
    responses(
        (status = 200, description = "The posts", body = HookPage),
        (status = 422, description = "Invalid query parameter"),
    ),
)]
async fn list(
    State(hooks): State<Arc<Hooks>>,
    query: Result<Query<HooksQuery>, QueryRejection>,
) -> Result<Json<HookPage>, InboxError> {
    let query = read(query)?;
    hooks.wait(&query, Instant::now() + wait_time(query.wait)?).await;
    Ok(Json(HookPage { data: hooks.list(&query) }))
}

/// Delete received webhooks
#[utoipa::path(
    delete, path = "/v1/dev/hooks", tag = "dev", operation_id = "clear_received_hooks",
    responses((status = 204, description = "All received posts are deleted")),
)]
async fn clear(State(hooks): State<Arc<Hooks>>) -> StatusCode {
    hooks.lock_posts().clear();
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn only_the_newest_posts_are_stored() {
        let hooks = Hooks::new(Arc::new(SystemClock), CancellationToken::new());
        for n in 0..=CAPACITY {
            hooks.store(&HeaderMap::new(), format!("{{\"type\":\"t{n}\"}}").as_bytes());
        }
        hooks.store(&HeaderMap::from_iter([("webhook-id".parse().unwrap(), "a".parse().unwrap())]), b"\xff not JSON");
        let all = hooks.list(&HooksQuery::default());
        assert_eq!((all.len(), all[0].webhook_id.as_deref()), (CAPACITY, Some("a")));
        assert_eq!(all[0].body, "\u{fffd} not JSON");
        assert_eq!(all[1].raw_body, "{\"type\":\"t200\"}");
        let some = |query| hooks.list(&query).iter().map(|post| post.n).collect::<Vec<_>>();
        assert_eq!(some(HooksQuery { r#type: Some("t5".into()), ..HooksQuery::default() }), [6]);
        assert_eq!(some(HooksQuery { after: Some(200), ..HooksQuery::default() }), [202, 201]);
    }

    #[tokio::test]
    async fn wait_ends_at_a_matching_post_or_at_shutdown() {
        let hooks = Arc::new(Hooks::new(Arc::new(SystemClock), CancellationToken::new()));
        let query = HooksQuery { r#type: Some("x".into()), ..HooksQuery::default() };
        let later = Instant::now() + Duration::from_mins(10);
        let posting = async {
            hooks.store(&HeaderMap::new(), b"{}");
            hooks.store(&HeaderMap::new(), b"{\"type\":\"x\"}");
        };
        tokio::join!(hooks.wait(&query, later), posting);
        hooks.stop.cancel();
        hooks.wait(&HooksQuery { after: Some(2), ..query }, later).await;
    }
}
