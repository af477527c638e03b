//! Reads request bodies: with a limit each, a limit in sum, a time limit and a least speed, so that neither a few large
//! requests nor many slow ones take the service's memory, or keep each other out.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};

use super::ApiError;
use super::auth::Keys;
use super::room::{Owner, Room, Share};

/// Bodies up to this many octets do not count: nothing small ever waits behind something large.
pub(super) const SMALL: u64 = 64 << 10;
/// The largest body that describes something else than a message.
const SETTINGS: u64 = 1 << 20;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_mins(2);
/// How long a large body may wait for its turn.
const TURN: Duration = Duration::from_secs(30);
/// What has to arrive of a large body in 10 s: 16 KiB a second.
const FLOWS: u64 = 160 << 10;
/// The same in 2 s while somebody else waits for the memory.
const FLOWS_WELL: u64 = 64 << 10;
/// Memory is taken in steps of so much.
const STEP: u64 = 256 << 10;

/// The limits, and what is left of them.
#[derive(Debug)]
pub(super) struct Bodies {
    keys: Arc<Keys>,
    max: u64,
    room: Arc<Room>,
}

/// A body, and its share of the memory until it is dropped.
#[derive(Debug)]
pub(super) struct Read {
    pub octets: Vec<u8>,
    pub share: Option<Share>,
}

impl Bodies {
    pub(super) fn new(keys: Arc<Keys>, max: u64, memory: u64) -> Self {
        // One body of the largest size must always fit.
        Self { keys, max, room: Room::new(memory.max(max)) }
    }

    /// Reads a JSON body that describes something else than a message.
    pub(super) async fn json(&self, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        self.read_json(None, headers, body, SETTINGS.min(self.max)).await
    }

    /// Reads the JSON of a message, or of several.
    pub(super) async fn message(&self, owner: Owner, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        self.read_json(owner, headers, body, self.max).await
    }

    async fn read_json(&self, owner: Owner, headers: &HeaderMap, body: Body, max: u64) -> Result<Read, ApiError> {
        if !is_kind(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        self.read(owner, headers, body, max).await
    }

    /// Reads a mail of at most `max` octets.
    pub(super) async fn mail(&self, owner: Owner, headers: &HeaderMap, body: Body, max: u64) -> Result<Read, ApiError> {
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
        // Where no length was given, it may become as large as it may be.
        let need = decoded_too(length.unwrap_or(max));
        let mut share: Option<Share> = None;
        // A large body gets memory once it has a share, and not for its header alone.
        let mut octets = Vec::with_capacity(usize::try_from(length.unwrap_or(0).min(SMALL)).unwrap_or(0));
        let mut pieces = Pieces::new(body, max, ARRIVAL);
        while let Some(piece) = pieces.next_for(share.as_ref()).await? {
            let size = (octets.len() + piece.len()) as u64;
            if size > SMALL {
                let share = share.get_or_insert_with(|| self.room.begin(owner, need));
                share.grow(decoded_too(size.next_multiple_of(STEP)), TURN).await.map_err(|_| full())?;
                let rest = length.unwrap_or(0).saturating_sub(octets.len() as u64);
                octets.reserve_exact(usize::try_from(rest).unwrap_or(0));
            }
            octets.extend_from_slice(&piece);
        }
        // A body may take minutes: a key that was revoked meanwhile does nothing any more.
        self.keys.still_works(headers).await?;
        Ok(Read { octets, share })
    }

    /// A body that is worked on as it arrives: nothing of it is kept, so that it takes no share of the memory.
    pub(super) fn pieces(&self, headers: &HeaderMap, body: Body) -> Result<Pieces, ApiError> {
        is_plain(headers)?;
        if length(headers).is_some_and(|length| length > self.max) {
            return Err(ApiError::TooLarge(self.max));
        }
        Ok(Pieces::new(body, self.max, Duration::MAX))
    }
}

/// The answer where there was no memory in time.
fn full() -> ApiError {
    ApiError::Unavailable("Too many large requests at one time. Nothing was done; try again.")
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// What a body takes up in memory while it is parsed: attachments are there twice, in base64 and decoded.
fn decoded_too(length: u64) -> u64 {
    length + length / 4 * 3
}

/// The pieces of a body, at no less than a least speed. Only the time in which a piece is awaited counts.
#[derive(Debug)]
pub(super) struct Pieces {
    stream: BodyDataStream,
    left: u64,
    max: u64,
    /// How long may still be waited.
    time: Duration,
    long: Window,
    short: Window,
}

/// What arrived in a span of waiting.
#[derive(Debug)]
struct Window {
    length: Duration,
    waited: Duration,
    arrived: u64,
}

impl Pieces {
    /// Of at most `max` bytes.
    fn new(body: Body, max: u64, time: Duration) -> Self {
        let window = |length| Window { length, waited: Duration::ZERO, arrived: 0 };
        let (long, short) = (window(Duration::from_secs(10)), window(Duration::from_secs(2)));
        Self { stream: body.into_data_stream(), left: max, max, time, long, short }
    }

    /// The next one; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.next_of(FLOWS, false).await
    }

    /// The next one of a body that takes `share`; of one that takes nothing it is enough that something comes.
    async fn next_for(&mut self, share: Option<&Share>) -> Result<Option<Bytes>, ApiError> {
        self.next_of(share.map_or(1, |_| FLOWS), share.is_some_and(Share::is_in_the_way)).await
    }

    async fn next_of(&mut self, least: u64, is_in_the_way: bool) -> Result<Option<Bytes>, ApiError> {
        // Most pieces are here already, and no time passes.
        if let Some(next) = self.stream.next().now_or_never() {
            return next.map(|piece| self.take(piece)).transpose();
        }
        let next = loop {
            let begun = Instant::now();
            let next = timeout(self.long.left().min(self.short.left()).min(self.time), self.stream.next()).await;
            let waited = begun.elapsed();
            self.time = self.time.saturating_sub(waited);
            let is_slow = self.long.is_below(least, waited);
            let is_slow = (self.short.is_below(FLOWS_WELL, waited) && is_in_the_way) || is_slow;
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

    /// Whether less than this arrived in the span that ended now, if one did.
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

/// Refuses a body in a coding: none is undone here, so it would be read as something else.
fn is_plain(headers: &HeaderMap) -> Result<(), ApiError> {
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity") || coding.is_empty()) {
        return Ok(());
    }
    Err(ApiError::UnsupportedCoding)
}

/// Whether it is of this type, with or without parameters; a missing one is taken for it.
fn is_kind(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(kind)
    })
}
