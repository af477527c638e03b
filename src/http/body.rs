//! Reads request bodies with a size limit, a shared memory limit, a time limit and a minimum speed, so that neither a
//! few large requests nor many slow ones exhaust the memory or block others.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::ApiError;
use super::auth::Keys;
use super::memory_limit::{MemoryLimit, Owner, Reservation};

/// Bodies up to this many bytes do not count against the shared memory, so small requests never wait for large ones.
pub(super) const SMALL: u64 = 64 << 10;
/// Maximum size of a JSON body that is not a message.
const MAX_JSON: u64 = 1 << 20;
/// How long a body may take to arrive.
const MAX_ARRIVAL: Duration = Duration::from_mins(2);
/// How long a large body may wait for memory.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Minimum bytes of a large body per 10 s: 16 KiB/s.
const MIN_FLOW: u64 = 160 << 10;
/// Minimum bytes per 2 s while another request waits for the memory.
const MIN_FLOW_CONTENDED: u64 = 64 << 10;
/// Memory is reserved in steps of this size.
const STEP: u64 = 256 << 10;

/// The limits of request bodies, and the memory that they share.
#[derive(Debug)]
pub(super) struct Bodies {
    keys: Arc<Keys>,
    max: u64,
    memory: Arc<MemoryLimit>,
}

/// A body, and its reservation of memory, released when dropped.
#[derive(Debug)]
pub(super) struct Read {
    pub bytes: Vec<u8>,
    pub reservation: Option<Reservation>,
}

impl Bodies {
    pub(super) fn new(keys: Arc<Keys>, max: u64, memory: u64) -> Self {
        // One body of the maximum size must always fit.
        Self { keys, max, memory: MemoryLimit::new(memory.max(max)) }
    }

    /// Reads a JSON body that is not a message.
    pub(super) async fn json(&self, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        self.read_json(None, headers, body, MAX_JSON.min(self.max)).await
    }

    /// Reads the JSON of one or several messages.
    pub(super) async fn message(&self, owner: Owner, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        self.read_json(owner, headers, body, self.max).await
    }

    async fn read_json(&self, owner: Owner, headers: &HeaderMap, body: Body, max: u64) -> Result<Read, ApiError> {
        if !is_kind(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        self.read(owner, headers, body, max).await
    }

    /// Reads an inbound MIME message of at most `max` bytes.
    pub(super) async fn mime(&self, owner: Owner, headers: &HeaderMap, body: Body, max: u64) -> Result<Read, ApiError> {
        if !["message/rfc822", "message/global", "application/octet-stream"].iter().any(|kind| is_kind(headers, kind)) {
            return Err(ApiError::UnsupportedMediaType("message/rfc822"));
        }
        self.read(owner, headers, body, max).await
    }

    async fn read(&self, owner: Owner, headers: &HeaderMap, body: Body, max: u64) -> Result<Read, ApiError> {
        is_plain(headers)?;
        let length = length(headers);
        if length.is_some_and(|length| length > max) {
            return Err(ApiError::TooLarge(max));
        }
        // Without a Content-Length, assume the maximum.
        let need = memory_need(length.unwrap_or(max));
        let mut reservation: Option<Reservation> = None;
        // A large body gets its buffer once it has a reservation, not on the strength of its Content-Length.
        let mut bytes = Vec::with_capacity(usize::try_from(length.unwrap_or(0).min(SMALL)).unwrap_or(0));
        let mut pieces = Pieces::new(body, max, MAX_ARRIVAL);
        while let Some(piece) = pieces.next_for(reservation.as_ref()).await? {
            let size = (bytes.len() + piece.len()) as u64;
            if size > SMALL {
                let reservation = reservation.get_or_insert_with(|| self.memory.begin(owner, need));
                reservation.grow(memory_need(size.next_multiple_of(STEP)), MAX_WAIT).await.map_err(|_| full())?;
                let rest = length.unwrap_or(0).saturating_sub(bytes.len() as u64);
                bytes.reserve_exact(usize::try_from(rest).unwrap_or(0));
            }
            bytes.extend_from_slice(&piece);
        }
        // A body may take minutes to arrive; the key may have been revoked in the meantime.
        self.keys.still_works(headers).await?;
        Ok(Read { bytes, reservation })
    }

    /// Returns a body to process as it arrives. It is not buffered, so it reserves no memory.
    pub(super) fn pieces(&self, headers: &HeaderMap, body: Body) -> Result<Pieces, ApiError> {
        is_plain(headers)?;
        if length(headers).is_some_and(|length| length > self.max) {
            return Err(ApiError::TooLarge(self.max));
        }
        Ok(Pieces::new(body, self.max, Duration::MAX))
    }
}

/// Returns the error when no memory became free in time.
fn full() -> ApiError {
    ApiError::Unavailable("Too many large requests at once. Nothing was changed; retry the request.")
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Returns the memory that a body takes while it is parsed: attachments exist both in base64 and decoded.
fn memory_need(length: u64) -> u64 {
    length + length / 4 * 3
}

/// The pieces of a body, with a minimum speed. Only the time spent waiting for a piece counts.
#[derive(Debug)]
pub(super) struct Pieces {
    stream: BodyDataStream,
    left: u64,
    max: u64,
    /// Remaining time to wait.
    time: Duration,
    long: Window,
    short: Window,
}

/// Bytes that arrived in a span of waiting.
#[derive(Debug)]
struct Window {
    length: Duration,
    waited: Duration,
    arrived: u64,
}

impl Pieces {
    /// Creates the pieces of a body of at most `max` bytes.
    fn new(body: Body, max: u64, time: Duration) -> Self {
        let window = |length| Window { length, waited: Duration::ZERO, arrived: 0 };
        let (long, short) = (window(Duration::from_secs(10)), window(Duration::from_secs(2)));
        Self { stream: body.into_data_stream(), left: max, max, time, long, short }
    }

    /// Returns the next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.next_of(MIN_FLOW, false).await
    }

    /// Returns the next piece of a body that holds `reservation`. A body without one only has to make some progress.
    async fn next_for(&mut self, reservation: Option<&Reservation>) -> Result<Option<Bytes>, ApiError> {
        self.next_of(reservation.map_or(1, |_| MIN_FLOW), reservation.is_some_and(Reservation::blocks_others)).await
    }

    async fn next_of(&mut self, least: u64, blocks_others: bool) -> Result<Option<Bytes>, ApiError> {
        // Most pieces have arrived already.
        if let Some(next) = self.stream.next().now_or_never() {
            return next.map(|piece| self.take(piece)).transpose();
        }
        let next = loop {
            let begun = Instant::now();
            let next = timeout(self.long.left().min(self.short.left()).min(self.time), self.stream.next()).await;
            let waited = begun.elapsed();
            self.time = self.time.saturating_sub(waited);
            let is_slow = self.long.is_below(least, waited);
            let is_slow = (self.short.is_below(MIN_FLOW_CONTENDED, waited) && blocks_others) || is_slow;
            match next {
                Ok(None) => return Ok(None),
                _ if is_slow || self.time.is_zero() => return Err(ApiError::BodyTimeout),
                Ok(Some(next)) => break next,
                Err(_) => {}
            }
        };
        self.take(next).map(Some)
    }

    fn take(&mut self, piece: Result<Bytes, axum::Error>) -> Result<Bytes, ApiError> {
        let piece = piece
            .map_err(|_| ApiError::Malformed("The request body ended early, or its chunks are not valid.".into()))?;
        let size = piece.len() as u64;
        self.long.arrived += size;
        self.short.arrived += size;
        self.left = self.left.checked_sub(size).ok_or(ApiError::TooLarge(self.max))?;
        Ok(piece)
    }
}

impl Window {
    fn left(&self) -> Duration {
        self.length.saturating_sub(self.waited)
    }

    /// Returns whether the span has ended with fewer than `least` bytes.
    fn is_below(&mut self, least: u64, waited: Duration) -> bool {
        self.waited += waited;
        if self.waited < self.length {
            return false;
        }
        let is_below = self.arrived < least;
        (self.arrived, self.waited) = (0, Duration::ZERO);
        is_below
    }
}

/// Refuses a body with a content coding, since none is supported.
fn is_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity") || coding.is_empty()) {
        return Ok(());
    }
    Err(ApiError::UnsupportedCoding)
}

/// Returns whether the content type is `kind`, with or without parameters, or missing.
fn is_kind(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(kind)
    })
}
