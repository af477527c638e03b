//! Discards the body of a request that was refused before it was read. Otherwise the connection would break while the
//! client still sends, and the client would see a broken pipe instead of the response. The response does not wait for
//! this. If the rest of the body is too long or too slow, the connection is closed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::StreamExt as _;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

/// Maximum bytes to discard.
const MAX_BYTES: u64 = 64 << 20;
/// Maximum time to discard a body.
const MAX_TIME: Duration = Duration::from_secs(30);
/// Maximum time to wait for each chunk.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Receives the rest of a body that was dropped before its end.
type UnreadSlot = Arc<Mutex<Option<Body>>>;

/// A body whose unread rest goes to `slot` when it is dropped.
struct RecoverableBody {
    body: Option<Body>,
    slot: UnreadSlot,
}

/// The unread rest of a request's body.
pub(in crate::http) struct Unread {
    slot: UnreadSlot,
    /// Whether the client sent `Expect: 100-continue`, and may wait before it sends the body.
    expects_continue: bool,
}

/// Wraps the body so that its unread rest can be discarded. Returns `None` if the request has no body.
pub(in crate::http) fn track(request: Request) -> (Request, Option<Unread>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let expects_continue = request.headers().contains_key(header::EXPECT);
    let slot = UnreadSlot::default();
    let request = request.map(|body| Body::new(RecoverableBody { body: Some(body), slot: slot.clone() }));
    (request, Some(Unread { slot, expects_continue }))
}

impl Unread {
    /// Discards the rest of the body after a refusal, or closes the connection after the response.
    pub(super) fn discard_or_close(self, response: &mut Response) {
        let status = response.status();
        if !status.is_client_error() && !status.is_server_error() {
            return;
        }
        let rest = self.slot.lock().take();
        let Some(rest) = rest else { return };
        // After a timeout, the body arrives too slowly to be discarded.
        if self.expects_continue || status == StatusCode::REQUEST_TIMEOUT || rest.size_hint().lower() > MAX_BYTES {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        } else {
            tokio::spawn(timeout(MAX_TIME, discard(rest)));
        }
    }
}

/// Reads the body to its end, or stops at a limit.
async fn discard(body: Body) {
    let (mut chunks, mut read) = (body.into_data_stream(), 0);
    while let Ok(Some(Ok(chunk))) = timeout(MAX_PAUSE, chunks.next()).await {
        read += chunk.len() as u64;
        if read > MAX_BYTES {
            return;
        }
    }
}

impl HttpBody for RecoverableBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for RecoverableBody {
    fn drop(&mut self) {
        if let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) {
            *self.slot.lock() = Some(body);
        }
    }
}
