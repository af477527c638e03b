//! Large responses reserve a part of a limited memory until they have been sent, so that clients that do not read
//! their responses cannot exhaust the memory.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::http::HeaderMap;
use axum::response::{IntoResponse as _, Response};

use super::ApiError;
use super::auth::Requester;
use super::limits::allowances::ShownLimits;
use super::limits::memory_limit::{MemoryLimit, OutOfMemory, Owner, Reservation};
use super::request::body::SMALL_BODY_BYTES;

/// Maximum time to wait for memory before a response is built.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Maximum time that a response in memory waits for its reservation.
const MAX_WAIT_BUILT: Duration = Duration::from_secs(5);

/// The API key of a request with its tenant, set by [`super::auth::Caller`] once the key is known: the memory of the
/// response counts against them, and the headers of the response show the key's limits.
#[derive(Debug, Clone, Default)]
pub(super) struct ResponseOwner(Arc<Owned>);

#[derive(Debug, Default)]
struct Owned {
    requester: OnceLock<Requester>,
    limits: OnceLock<ShownLimits>,
}

impl ResponseOwner {
    pub(super) fn set(&self, requester: Requester) {
        let _ = self.0.requester.set(requester);
    }

    /// Sets the limits that the response shows.
    pub(super) fn set_limits(&self, limits: ShownLimits) {
        let _ = self.0.limits.set(limits);
    }

    /// Adds the headers that show the key's limits; none if the key has no limits.
    pub(super) fn add_limits(&self, headers: &mut HeaderMap) {
        if let Some(limits) = self.0.limits.get() {
            limits.add_to(headers);
        }
    }
}

/// The mark of a response whose memory was reserved before it was built.
#[derive(Debug, Clone, Copy)]
struct AlreadyReserved;

/// Memory for large responses.
#[derive(Debug, Clone)]
pub(super) struct ResponseMemory(Arc<MemoryLimit>);

impl ResponseMemory {
    pub(super) fn new(memory: u64) -> Self {
        Self(MemoryLimit::new(memory))
    }

    /// Waits for memory to build a response.
    pub(super) async fn reserve(&self, owner: Owner, bytes: u64) -> Result<Reservation, ApiError> {
        self.0.reserve(owner, bytes, MAX_WAIT).await.map_err(|OutOfMemory| out_of_memory())
    }
}

fn out_of_memory() -> ApiError {
    ApiError::Unavailable("Too many large responses at once. Nothing was changed; retry the request.")
}

/// Bytes with their memory reservation.
struct ReservedBytes {
    bytes: Bytes,
    _reservation: Arc<Reservation>,
}

impl AsRef<[u8]> for ReservedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Returns bytes that release their reservation when they have been sent.
pub(super) fn with_reservation(bytes: impl Into<Bytes>, reservation: Arc<Reservation>) -> Bytes {
    Bytes::from_owner(ReservedBytes { bytes: bytes.into(), _reservation: reservation })
}

/// Marks a response whose bytes already have a reservation, so that [`ResponseMemory::admit`] reserves none.
pub(super) fn mark_reserved(mut response: Response) -> Response {
    response.extensions_mut().insert(AlreadyReserved);
    response
}

impl ResponseMemory {
    /// Reserves memory for a large response, and returns 503 instead if none becomes free in time.
    pub(super) async fn admit(&self, owner: &ResponseOwner, response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or(0);
        if size <= SMALL_BODY_BYTES || response.extensions().get::<AlreadyReserved>().is_some() {
            return response;
        }
        let Ok(reservation) = self.0.reserve_for_built(owner.0.requester.get().copied(), size, MAX_WAIT_BUILT).await
        else {
            return out_of_memory().into_response();
        };
        let (parts, body) = response.into_parts();
        // An exact size means that the whole body is in memory.
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => Response::from_parts(parts, Body::from(with_reservation(bytes, Arc::new(reservation)))),
            Err(_) => ApiError::Internal.into_response(),
        }
    }
}
