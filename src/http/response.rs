//! Large responses reserve a part of a limited memory until they have been sent, so that clients that do not read
//! their responses cannot exhaust the memory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::response::{IntoResponse as _, Response};

use super::ApiError;
use super::body::SMALL;
use super::memory_limit::{MemoryLimit, OutOfMemory, Owner, Reservation};
use crate::domain::id::KeyId;

/// How long a response may wait for memory before it is built.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// How long a response that has been built may wait for memory.
const MAX_WAIT_BUILT: Duration = Duration::from_secs(5);

/// The key of the request, set by [`super::auth::Caller`] once it is known.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<KeyId>>);

impl Asker {
    pub(super) fn set(&self, key: KeyId) {
        let _ = self.0.set(key);
    }
}

/// Marks a response whose memory was reserved before it was built.
#[derive(Debug, Clone, Copy)]
struct Counted;

/// Memory for large responses.
#[derive(Debug, Clone)]
pub(super) struct Responses(Arc<MemoryLimit>);

impl Responses {
    pub(super) fn new(memory: u64) -> Self {
        Self(MemoryLimit::new(memory))
    }

    /// Waits for memory to build a response.
    pub(super) async fn reserve(&self, owner: Owner, bytes: u64) -> Result<Reservation, ApiError> {
        self.0.reserve(owner, bytes, MAX_WAIT).await.map_err(|OutOfMemory| full())
    }
}

fn full() -> ApiError {
    ApiError::Unavailable("Too many large responses at once. Nothing was changed; retry the request.")
}

/// Bytes and their reservation of memory.
struct Held {
    bytes: Bytes,
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns bytes that release their memory when they have been sent.
pub(super) fn held(bytes: impl Into<Bytes>, reservation: Arc<Reservation>) -> Bytes {
    Bytes::from_owner(Held { bytes: bytes.into(), _reservation: reservation })
}

/// Marks a response whose parts already hold their reservations.
pub(super) fn counted(mut response: Response) -> Response {
    response.extensions_mut().insert(Counted);
    response
}

impl Responses {
    /// Makes a large response wait for memory.
    pub(super) async fn admit(&self, asker: &Asker, response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or(0);
        if size <= SMALL || response.extensions().get::<Counted>().is_some() {
            return response;
        }
        let Ok(reservation) = self.0.reserve_for_built(asker.0.get().copied(), size, MAX_WAIT_BUILT).await else {
            return full().into_response();
        };
        let (parts, body) = response.into_parts();
        // An exact size means that the whole body is in memory.
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => Response::from_parts(parts, Body::from(held(bytes, Arc::new(reservation)))),
            Err(_) => ApiError::Internal.into_response(),
        }
    }
}
