//! Large responses hold their share of a memory until they have been sent: a client that does not read must not make the
//! service keep more than that.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use axum::response::{IntoResponse as _, Response};

use super::ApiError;
use super::body::SMALL;
use super::room::{Full, Owner, Room, Share};
use crate::domain::id::KeyId;

/// How long a response that is to be made may wait for memory.
const TURN: Duration = Duration::from_secs(30);
/// The same for one that is made.
const MADE: Duration = Duration::from_secs(5);

/// Who asked, once that is known: handed to [`super::auth::Caller`] with the request.
#[derive(Debug, Clone, Default)]
pub(super) struct Asker(Arc<OnceLock<KeyId>>);

impl Asker {
    pub(super) fn set(&self, key: KeyId) {
        let _ = self.0.set(key);
    }
}

/// Marks a response whose share was taken before it was made.
#[derive(Debug, Clone, Copy)]
struct Counted;

/// Memory for large responses.
#[derive(Debug, Clone)]
pub(super) struct Responses(Arc<Room>);

impl Responses {
    pub(super) fn new(memory: u64) -> Self {
        Self(Room::new(memory))
    }

    /// Waits for memory to make a response with.
    pub(super) async fn reserve(&self, owner: Owner, bytes: u64) -> Result<Share, ApiError> {
        self.0.reserve(owner, bytes, TURN).await.map_err(|Full| full())
    }
}

fn full() -> ApiError {
    ApiError::Unavailable("Too many large responses at one time. Nothing was done; try again.")
}

/// Bytes and the share that they take.
struct Held {
    bytes: Bytes,
    _share: Arc<Share>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Bytes that give their share back when they have been sent.
pub(super) fn held(bytes: impl Into<Bytes>, share: Arc<Share>) -> Bytes {
    Bytes::from_owner(Held { bytes: bytes.into(), _share: share })
}

/// A response of which each part has its share already.
pub(super) fn counted(mut response: Response) -> Response {
    response.extensions_mut().insert(Counted);
    response
}

impl Responses {
    /// Has a large response wait for its share.
    pub(super) async fn admit(&self, asker: &Asker, response: Response) -> Response {
        let size = response.body().size_hint().exact().unwrap_or(0);
        if size <= SMALL || response.extensions().get::<Counted>().is_some() {
            return response;
        }
        let Ok(share) = self.0.reserve_made(asker.0.get().copied(), size, MADE).await else {
            return full().into_response();
        };
        let (parts, body) = response.into_parts();
        // It is in memory as a whole, which is where its exact size is known from.
        match axum::body::to_bytes(body, usize::MAX).await {
            Ok(bytes) => Response::from_parts(parts, Body::from(held(bytes, Arc::new(share)))),
            Err(_) => ApiError::Internal.into_response(),
        }
    }
}
