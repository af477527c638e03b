//! Reads request bodies with a size limit, a shared memory limit, a time limit and a minimum speed, so that neither a
//! few large requests nor many slow ones exhaust the memory or block others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::http::{HeaderMap, header};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout};

use crate::http::ApiError;
use crate::http::auth::KeyCache;
use crate::http::limits::memory_limit::{MemoryLimit, Owner, Reservation};

/// Bodies up to this many bytes do not count against the shared memory, so small requests never wait for large ones.
pub(in crate::http) const SMALL_BODY_BYTES: u64 = 64 << 10;
/// Maximum size of JSON bodies, except for messages and templates.
pub(super) const MAX_JSON_BYTES: u64 = 1 << 20;
/// Maximum size of a template as JSON, in which every quote and line end takes two bytes.
const MAX_TEMPLATE_BYTES: u64 = 4 << 20;
/// Memory of an upload, of any size: a chunk, and its copies for the database connection.
const UPLOAD_MEMORY: u64 = 4 << 20;
/// Maximum time for a body to arrive.
const MAX_ARRIVAL: Duration = Duration::from_mins(2);
/// Maximum time that a large body waits for memory.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Minimum bytes of a large body per 10 s: 16 KiB/s.
const MIN_BYTES_PER_10S: u64 = 160 << 10;
/// Minimum bytes per 2 s while another request waits for the memory.
const MIN_BYTES_PER_2S: u64 = 64 << 10;
/// Memory is reserved in steps of this size.
const RESERVATION_STEP: u64 = 256 << 10;

/// Reads request bodies, with the limits and the memory that they share.
#[derive(Debug)]
pub(in crate::http) struct Bodies {
    keys: Arc<KeyCache>,
    max: u64,
    memory: Arc<MemoryLimit>,
    /// Memory for the messages of batches, once their bodies have been parsed.
    batches: Arc<MemoryLimit>,
    /// Memory for the output of templates. A request reserves it last, and waits for no other memory while it holds it.
    rendered: Arc<MemoryLimit>,
    /// Memory for the bodies of requests of the Resend API that send messages.
    resend: Arc<MemoryLimit>,
}

/// The limits of one kind of body.
struct BodyLimit<'a> {
    /// Maximum number of bytes.
    max: u64,
    memory: &'a Arc<MemoryLimit>,
    /// Returns the memory that a body of some length takes while it is processed.
    need: &'a (dyn Fn(u64) -> u64 + Sync),
}

/// A body that has been read, and its memory reservation, which is released when dropped.
#[derive(Debug)]
pub(in crate::http) struct ReadBody {
    pub bytes: Vec<u8>,
    pub reservation: Option<Reservation>,
}

impl Bodies {
    pub(in crate::http) fn new(keys: Arc<KeyCache>, max: u64, memory: u64) -> Self {
        // One body of the maximum size must always fit.
        let memory = memory.max(max);
        let limit = || MemoryLimit::new(memory);
        let resend = MemoryLimit::new(memory.max(resend_need(resend_max(max), max)));
        Self { keys, max, memory: limit(), batches: limit(), rendered: limit(), resend }
    }

    /// Reads the JSON body of any request except one that sends a message or changes a template.
    pub(in crate::http) async fn json(&self, headers: &HeaderMap, body: Body) -> Result<ReadBody, ApiError> {
        self.read_json(headers, body, MAX_JSON_BYTES).await
    }

    /// Reads the JSON body of a template.
    pub(in crate::http) async fn template(&self, headers: &HeaderMap, body: Body) -> Result<ReadBody, ApiError> {
        self.read_json(headers, body, MAX_TEMPLATE_BYTES).await
    }

    async fn read_json(&self, headers: &HeaderMap, body: Body, max: u64) -> Result<ReadBody, ApiError> {
        if !has_content_type(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        self.read(None, headers, body, max.min(self.max), memory_need).await
    }

    /// Reads the JSON body of a request that sends messages. `media_types` names the media types that the endpoint
    /// supports, for the error.
    pub(in crate::http) async fn message(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
        media_types: &'static str,
    ) -> Result<ReadBody, ApiError> {
        if !has_content_type(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType(media_types));
        }
        self.read(owner, headers, body, self.max, memory_need).await
    }

    /// Reads the JSON body of a request of the Resend API that sends messages. Some of Resend's SDKs send a file as an
    /// array of numbers, which takes about four times the size of the file. Before the caller copies the body, it must
    /// check that the body without its arrays of numbers has at most [`max_message`](Self::max_message) bytes.
    pub(in crate::http) async fn resend(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReadBody, ApiError> {
        if !has_content_type(headers, "application/json") {
            return Err(ApiError::UnsupportedMediaType("application/json"));
        }
        let need = |length| resend_need(length, self.max);
        let limit = BodyLimit { max: resend_max(self.max), memory: &self.resend, need: &need };
        self.read_within(owner, headers, body, limit).await
    }

    /// Returns a body of at most `max` bytes, which the caller stores as it arrives and of which it buffers at most
    /// `buffered` bytes besides the upload's chunk.
    pub(in crate::http) fn upload(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
        max: u64,
        buffered: u64,
    ) -> Result<UploadBody, ApiError> {
        check_encoding(headers)?;
        if length(headers).is_some_and(|length| length > max) {
            return Err(ApiError::TooLarge(max));
        }
        let max_buffered = AtomicU64::new(length(headers).map_or(buffered, |length| length.min(buffered)));
        let memory = UploadMemory { limit: self.memory.clone(), owner, max_buffered, reservation: OnceLock::new() };
        let chunks = BodyChunks::new(body, max, MAX_ARRIVAL);
        Ok(UploadBody { chunks, memory: Arc::new(memory), received: 0 })
    }

    /// Reads a message that is finished MIME.
    pub(in crate::http) async fn finished(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<ReadBody, ApiError> {
        self.read(owner, headers, body, self.max, finished_need).await
    }

    /// Reserves memory to process a finished MIME message that has arrived in another way; `None` if it is small.
    pub(in crate::http) async fn reserve_finished(
        &self,
        owner: Owner,
        length: u64,
    ) -> Result<Option<Reservation>, ApiError> {
        if length <= SMALL_BODY_BYTES {
            return Ok(None);
        }
        let reserved = self.memory.reserve(owner, finished_need(length), MAX_WAIT).await;
        reserved.map(Some).map_err(|_| out_of_memory())
    }

    /// Returns the maximum size of a body that sends messages, in bytes.
    pub(in crate::http) fn max_message(&self) -> u64 {
        self.max
    }

    /// Reads an inbound MIME message of at most `max` bytes.
    pub(in crate::http) async fn mime(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
        max: u64,
    ) -> Result<ReadBody, ApiError> {
        let kinds = ["message/rfc822", "message/global", "application/octet-stream"];
        if !kinds.iter().any(|kind| has_content_type(headers, kind)) {
            return Err(ApiError::UnsupportedMediaType("message/rfc822"));
        }
        self.read(owner, headers, body, max, memory_need).await
    }

    /// Reads a body. `need` returns the memory that a body of some length takes while it is processed.
    async fn read(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
        max: u64,
        need: fn(u64) -> u64,
    ) -> Result<ReadBody, ApiError> {
        self.read_within(owner, headers, body, BodyLimit { max, memory: &self.memory, need: &need }).await
    }

    async fn read_within(
        &self,
        owner: Owner,
        headers: &HeaderMap,
        body: Body,
        BodyLimit { max, memory, need }: BodyLimit<'_>,
    ) -> Result<ReadBody, ApiError> {
        check_encoding(headers)?;
        let length = length(headers);
        if length.is_some_and(|length| length > max) {
            return Err(ApiError::TooLarge(max));
        }
        // Without a Content-Length, assume the maximum.
        let most = need(length.unwrap_or(max));
        let mut reservation: Option<Reservation> = None;
        // Allocates the buffer of a large body only after its memory is reserved: the Content-Length may be false.
        let mut bytes = Vec::with_capacity(usize::try_from(length.unwrap_or(0).min(SMALL_BODY_BYTES)).unwrap_or(0));
        let mut chunks = BodyChunks::new(body, max, MAX_ARRIVAL);
        while let Some(chunk) = chunks.next_for(reservation.as_ref()).await? {
            let size = (bytes.len() + chunk.len()) as u64;
            if size > SMALL_BODY_BYTES {
                let reservation = reservation.get_or_insert_with(|| memory.begin(owner, most));
                reservation
                    .grow(need(size.next_multiple_of(RESERVATION_STEP)), MAX_WAIT)
                    .await
                    .map_err(|_| out_of_memory())?;
                let rest = length.unwrap_or(0).saturating_sub(bytes.len() as u64);
                bytes.reserve_exact(usize::try_from(rest).unwrap_or(0));
            }
            bytes.extend_from_slice(&chunk);
        }
        // A body may take minutes to arrive; the key may have been revoked in the meantime.
        self.keys.recheck(headers).await?;
        Ok(ReadBody { bytes, reservation })
    }

    /// Reserves memory for the messages of a batch, whose body has been read.
    pub(in crate::http) async fn reserve_for_batch(&self, owner: Owner, need: u64) -> Result<Reservation, ApiError> {
        self.batches.reserve(owner, need, MAX_WAIT).await.map_err(|_| out_of_memory())
    }

    /// Reserves memory for the output of a request's templates; `None` if the output is small.
    pub(super) async fn reserve_rendered(&self, owner: Owner, bytes: u64) -> Result<Option<Reservation>, ApiError> {
        if bytes <= SMALL_BODY_BYTES {
            return Ok(None);
        }
        self.rendered.reserve_for_built(owner, bytes, MAX_WAIT).await.map(Some).map_err(|_| out_of_memory())
    }

    /// Returns a body that the caller processes as it arrives. It is not buffered, so it reserves no memory.
    pub(in crate::http) fn chunks(&self, headers: &HeaderMap, body: Body) -> Result<BodyChunks, ApiError> {
        check_encoding(headers)?;
        if length(headers).is_some_and(|length| length > self.max) {
            return Err(ApiError::TooLarge(self.max));
        }
        Ok(BodyChunks::new(body, self.max, Duration::MAX))
    }
}

/// The body of an upload, with a minimum speed. Once it is large, it has reserved memory.
#[derive(Debug)]
pub(in crate::http) struct UploadBody {
    chunks: BodyChunks,
    memory: Arc<UploadMemory>,
    received: u64,
}

impl UploadBody {
    /// Returns the next bytes; `None` at the end.
    pub(in crate::http) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let chunk = self.chunks.next_for(self.memory.reservation.get()).await?;
        self.received += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        if self.received > SMALL_BODY_BYTES && self.memory.reservation.get().is_none() {
            self.memory.begin().await?;
            // From now on, only the minimum speed limits the time.
            self.chunks.remaining_time = Duration::MAX;
        }
        Ok(chunk)
    }

    /// Returns the memory of the upload. It is released when the body and the returned value have been dropped.
    pub(in crate::http) fn memory(&self) -> Arc<UploadMemory> {
        self.memory.clone()
    }
}

/// The memory of an upload, which is reserved once the upload is large.
#[derive(Debug)]
pub(in crate::http) struct UploadMemory {
    limit: Arc<MemoryLimit>,
    owner: Owner,
    /// Maximum number of bytes that are buffered besides the upload's chunk.
    max_buffered: AtomicU64,
    reservation: OnceLock<Reservation>,
}

impl UploadMemory {
    /// Reserves memory for the first buffered bytes; the rest is reserved by [`grow`](Self::grow).
    async fn begin(&self) -> Result<(), ApiError> {
        let max = self.max_buffered.load(Ordering::Relaxed);
        let reservation = self.limit.begin(self.owner, upload_need(max));
        let first = upload_need(max.min(MAX_JSON_BYTES));
        reservation.grow(first, MAX_WAIT).await.map_err(|_| out_of_memory())?;
        let _ = self.reservation.set(reservation);
        Ok(())
    }

    /// Reserves memory for this many buffered bytes, if the upload is large.
    pub(in crate::http) async fn grow(&self, buffered: u64) -> Result<(), ApiError> {
        match self.reservation.get() {
            Some(reservation) => reservation.grow(upload_need(buffered), MAX_WAIT).await.map_err(|_| out_of_memory()),
            None => Ok(()),
        }
    }

    /// Lowers the maximum number of buffered bytes, and releases the memory above it.
    pub(super) fn set_buffered(&self, bytes: u64) {
        self.max_buffered.fetch_min(bytes, Ordering::Relaxed);
        if let Some(reservation) = self.reservation.get() {
            reservation.shrink(upload_need(bytes));
        }
    }

    /// Returns the reservation; `None` if the upload is small.
    pub(super) fn into_reservation(self) -> Option<Reservation> {
        self.reservation.into_inner()
    }
}

/// Returns the memory of an upload of which this many bytes are buffered.
fn upload_need(buffered: u64) -> u64 {
    UPLOAD_MEMORY + memory_need(buffered)
}

/// Returns the error for a body for which no memory became free in time.
fn out_of_memory() -> ApiError {
    ApiError::Unavailable(
        "Too many large requests at once. Nothing was changed; retry the request after `Retry-After`.",
    )
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok())
}

/// Returns the memory that finished MIME takes: its copy with CRLF line ends is in memory at the same time.
fn finished_need(length: u64) -> u64 {
    length * 9 / 4
}

/// Returns the memory that a body takes while it is parsed: attachments exist both in base64 and decoded.
fn memory_need(length: u64) -> u64 {
    length + length / 4 * 3
}

/// Returns the maximum size of a body of the Resend API, if one of `/v1` may have `max` bytes.
fn resend_max(max: u64) -> u64 {
    max.saturating_mul(4)
}

/// Returns the memory that a body of the Resend API takes: itself, its translation with its files, and the canonical
/// form of the translation. Neither of the latter two is larger than the body, or than `max`.
fn resend_need(length: u64, max: u64) -> u64 {
    length.saturating_add(length.min(max).saturating_mul(2))
}

/// The chunks of a body, with a minimum speed. Only the time spent waiting for a chunk counts.
#[derive(Debug)]
pub(in crate::http) struct BodyChunks {
    stream: BodyDataStream,
    /// Bytes that may still arrive.
    remaining_bytes: u64,
    max: u64,
    /// Waiting time that is left.
    remaining_time: Duration,
    /// Measures the speed over 10 s.
    long: Window,
    /// Measures the speed over 2 s, for when another request waits for the memory.
    short: Window,
}

/// Counts the bytes that arrive during a fixed amount of waiting time.
#[derive(Debug)]
struct Window {
    length: Duration,
    waited: Duration,
    arrived: u64,
}

impl BodyChunks {
    /// Creates the chunks of a body of at most `max` bytes.
    fn new(body: Body, max: u64, time: Duration) -> Self {
        let window = |length| Window { length, waited: Duration::ZERO, arrived: 0 };
        let (long, short) = (window(Duration::from_secs(10)), window(Duration::from_secs(2)));
        Self { stream: body.into_data_stream(), remaining_bytes: max, max, remaining_time: time, long, short }
    }

    /// Returns the next chunk; `None` at the end.
    pub(in crate::http) async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        self.next_within(MIN_BYTES_PER_10S, false).await
    }

    /// Returns the next chunk of a body that holds `reservation`. A body without one only has to make some progress.
    async fn next_for(&mut self, reservation: Option<&Reservation>) -> Result<Option<Bytes>, ApiError> {
        let min_bytes = reservation.map_or(1, |_| MIN_BYTES_PER_10S);
        self.next_within(min_bytes, reservation.is_some_and(Reservation::blocks_others)).await
    }

    async fn next_within(&mut self, min_bytes: u64, blocks_others: bool) -> Result<Option<Bytes>, ApiError> {
        // Most chunks have arrived already.
        if let Some(next) = self.stream.next().now_or_never() {
            return next.map(|chunk| self.take(chunk)).transpose();
        }
        let next = loop {
            let started = Instant::now();
            let next =
                timeout(self.long.remaining().min(self.short.remaining()).min(self.remaining_time), self.stream.next())
                    .await;
            let waited = started.elapsed();
            self.remaining_time = self.remaining_time.saturating_sub(waited);
            let is_slow = self.long.is_below(min_bytes, waited);
            let is_slow = (self.short.is_below(MIN_BYTES_PER_2S, waited) && blocks_others) || is_slow;
            match next {
                Ok(None) => return Ok(None),
                _ if is_slow || self.remaining_time.is_zero() => return Err(ApiError::BodyTimeout),
                Ok(Some(next)) => break next,
                Err(_) => {}
            }
        };
        self.take(next).map(Some)
    }

    fn take(&mut self, chunk: Result<Bytes, axum::Error>) -> Result<Bytes, ApiError> {
        let chunk = chunk.map_err(|_| {
            ApiError::Malformed("The request body ended early, or its chunked encoding is invalid.".into())
        })?;
        let size = chunk.len() as u64;
        self.long.arrived += size;
        self.short.arrived += size;
        self.remaining_bytes = self.remaining_bytes.checked_sub(size).ok_or(ApiError::TooLarge(self.max))?;
        Ok(chunk)
    }
}

impl Window {
    fn remaining(&self) -> Duration {
        self.length.saturating_sub(self.waited)
    }

    /// Adds `waited` to the window. If the window is over, starts the next one, and returns whether fewer than
    /// `min_bytes` bytes arrived in it.
    fn is_below(&mut self, min_bytes: u64, waited: Duration) -> bool {
        self.waited += waited;
        if self.waited < self.length {
            return false;
        }
        let is_below = self.arrived < min_bytes;
        (self.arrived, self.waited) = (0, Duration::ZERO);
        is_below
    }
}

/// Fails if the body has a `Content-Encoding`, since none is supported.
fn check_encoding(headers: &HeaderMap) -> Result<(), ApiError> {
    let codings = headers.get_all(header::CONTENT_ENCODING);
    if codings.iter().all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"identity") || coding.is_empty()) {
        return Ok(());
    }
    Err(ApiError::UnsupportedCoding)
}

/// Returns whether a body is declared as finished MIME.
pub(in crate::http) fn is_finished(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONTENT_TYPE)
        && ["message/rfc822", "message/global"].iter().any(|kind| has_content_type(headers, kind))
}

/// Returns whether the content type is `expected`, with or without parameters, or is missing.
fn has_content_type(headers: &HeaderMap, expected: &str) -> bool {
    !headers.contains_key(header::CONTENT_TYPE) || is_type(headers, expected)
}

/// Returns whether the content type is given and is `expected`, with or without parameters.
pub(super) fn is_type(headers: &HeaderMap, expected: &str) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case(expected)
    })
}
