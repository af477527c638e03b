//! Reads request bodies: with a limit each, a limit in sum, and a time limit, so that neither a few large requests nor
//! many slow ones take the service's memory.

use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::StreamExt as _;
use tokio::sync::{AcquireError, Semaphore, SemaphorePermit};

use super::ApiError;

/// Bodies up to this many octets do not count: nothing small ever waits behind something large.
const SMALL: u64 = 64 << 10;
/// How long a body may take to arrive.
const ARRIVAL: Duration = Duration::from_mins(2);
/// How long a large body may wait for its turn.
const TURN: Duration = Duration::from_secs(30);
/// What is read and thrown away of a body that is too large, so that the client gets to read our answer.
const DISCARD: u64 = 64 << 20;

/// The limits, and what is left of them.
#[derive(Debug)]
pub(super) struct Bodies {
    max: u64,
    /// Kibibytes that large bodies may still take.
    room: Semaphore,
    capacity: u32,
    /// Large answers that may still be made beside that.
    answers: Semaphore,
}

/// Large answers that are made from bodies at one time.
const ANSWERS: usize = 2;

/// A body, and its share of the memory until it is dropped.
#[derive(Debug)]
pub(super) struct Read<'a> {
    pub octets: Vec<u8>,
    pub permit: Option<SemaphorePermit<'a>>,
}

impl Bodies {
    pub(super) fn new(max: u64, memory: u64) -> Self {
        // One body of the largest size must always fit.
        let capacity = kibibytes(memory.max(max));
        Self { max, room: Semaphore::new(capacity as usize), capacity, answers: Semaphore::new(ANSWERS) }
    }

    /// Reads a JSON body.
    pub(super) async fn json(&self, headers: &HeaderMap, body: Body) -> Result<Read<'_>, ApiError> {
        if !is_kind(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        self.read(headers, body, self.max).await
    }

    /// Reads a mail of at most `max` octets.
    pub(super) async fn mail(&self, headers: &HeaderMap, body: Body, max: u64) -> Result<Read<'_>, ApiError> {
        if !["message/rfc822", "message/global", "application/octet-stream"].iter().any(|kind| is_kind(headers, kind)) {
            return Err(ApiError::UnsupportedMediaType("message/rfc822"));
        }
        self.read(headers, body, max).await
    }

    async fn read(&self, headers: &HeaderMap, body: Body, max: u64) -> Result<Read<'_>, ApiError> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > max) {
            self.discard(headers, body).await;
            return Err(ApiError::TooLarge(max));
        }
        let mut permit = match length {
            Some(length) if length > SMALL => Some(self.turn(decoded_too(length)).await?),
            _ => None,
        };
        let mut octets = Vec::with_capacity(usize::try_from(length.unwrap_or(0)).unwrap_or(0));
        let mut stream = body.into_data_stream();
        let reading = async {
            while let Some(chunk) = stream.next().await {
                let chunk = chunk.map_err(|_| ApiError::Malformed("The request body ended early.".into()))?;
                let size = (octets.len() + chunk.len()) as u64;
                if size > max {
                    return Err(ApiError::TooLarge(max));
                }
                if size > SMALL && permit.is_none() {
                    // No length was given: it may become as large as it may be.
                    permit = Some(self.turn(decoded_too(max)).await?);
                }
                octets.extend_from_slice(&chunk);
            }
            Ok(())
        };
        tokio::time::timeout(ARRIVAL, reading).await.map_err(|_| ApiError::BodyTimeout)??;
        Ok(Read { octets, permit })
    }

    /// A body that is worked on as it arrives: nothing of it is kept, so that it takes no share of the memory.
    pub(super) async fn pieces(&self, headers: &HeaderMap, body: Body) -> Result<Pieces, ApiError> {
        let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > self.max) {
            self.discard(headers, body).await;
            return Err(ApiError::TooLarge(self.max));
        }
        Ok(Pieces { stream: body.into_data_stream(), left: self.max, max: self.max })
    }

    /// Waits for room for `length` octets, of a body that is read or of an answer that is made.
    pub(super) async fn turn(&self, length: u64) -> Result<SemaphorePermit<'_>, ApiError> {
        let permits = kibibytes(length).min(self.capacity);
        in_turn(self.room.acquire_many(permits)).await
    }

    /// Waits until a large answer may be made by one who holds the room of its body already.
    pub(super) async fn answer(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        in_turn(self.answers.acquire()).await
    }

    async fn discard(&self, headers: &HeaderMap, body: Body) {
        // A client that asked first has not sent anything yet, and need not.
        if headers.contains_key(header::EXPECT) {
            return;
        }
        let mut left = DISCARD;
        let mut stream = body.into_data_stream();
        let reading = async {
            while let Some(Ok(chunk)) = stream.next().await {
                left = left.saturating_sub(chunk.len() as u64);
                if left == 0 {
                    break;
                }
            }
        };
        let _ = tokio::time::timeout(TURN, reading).await;
    }
}

/// What a body takes up in memory while it is parsed: attachments are there twice, in base64 and decoded.
fn decoded_too(length: u64) -> u64 {
    length + length / 4 * 3
}

/// The pieces of a body.
#[derive(Debug)]
pub(super) struct Pieces {
    stream: BodyDataStream,
    left: u64,
    max: u64,
}

impl Pieces {
    /// The next one; none at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let next = tokio::time::timeout(TURN, self.stream.next()).await.map_err(|_| ApiError::BodyTimeout)?;
        let Some(piece) = next else { return Ok(None) };
        let piece = piece.map_err(|_| ApiError::Malformed("The request body ended early.".into()))?;
        self.left = self.left.checked_sub(piece.len() as u64).ok_or(ApiError::TooLarge(self.max))?;
        Ok(Some(piece))
    }
}

/// Waits, but not for ever.
async fn in_turn<'a>(
    permit: impl Future<Output = Result<SemaphorePermit<'a>, AcquireError>>,
) -> Result<SemaphorePermit<'a>, ApiError> {
    match tokio::time::timeout(TURN, permit).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(ApiError::Unavailable("Too many large requests at one time. Nothing was done; try again.")),
    }
}

fn kibibytes(octets: u64) -> u32 {
    u32::try_from(octets.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Whether it is of this type, with or without parameters; a missing one is taken for it.
fn is_kind(headers: &HeaderMap, kind: &str) -> bool {
    headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(kind)
    })
}
