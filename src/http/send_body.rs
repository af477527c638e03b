//! The body of a request that sends messages: JSON, or a form with the JSON and files. Parsing it looks up the blobs that
//! its attachments refer to.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;

use super::auth::Caller;
use super::body::is_type;
use super::form::{self, Form, FormLimits};
use super::memory_limit::Reservation;
use super::{Api, ApiError};
use crate::accept::request::files::Files;
use crate::accept::request::{self, Context, Rejection, RequestHashes};
use crate::domain::id::TenantId;

/// Larger bodies are parsed on a blocking thread: parsing takes about 1 ms per megabyte.
pub(super) const LARGE_BODY_BYTES: usize = 256 << 10;

/// A body that has been read.
#[derive(Debug)]
pub(super) struct SendBody {
    json: Vec<u8>,
    files: Files,
    /// The memory of a large body, to be held until its attachments are stored.
    pub reservation: Option<Reservation>,
}

impl SendBody {
    /// Reads the body. The limits apply to forms.
    pub(super) async fn read(
        api: &Api,
        caller: &Caller,
        headers: &HeaderMap,
        body: Body,
        limits: FormLimits,
    ) -> Result<Self, ApiError> {
        if !is_type(headers, "multipart/form-data") {
            let read = api.bodies.message(Some(caller.key_id()), headers, body).await?;
            return Ok(Self { json: read.bytes, files: Files::default(), reservation: read.reservation });
        }
        // Boxed, because the future is large, and part of every request that sends a message.
        let Form { json, parts, reservation } = Box::pin(form::read(api, caller, headers, body, limits)).await?;
        if let Some(reservation) = &reservation {
            let in_memory: usize = parts.values().map(|part| part.data.len()).sum();
            // Parsing copies the texts and the files.
            reservation.shrink(2 * (json.len() + in_memory) as u64);
        }
        Ok(Self { json, files: Files { blobs: None, parts: Some(parts) }, reservation })
    }

    /// Parses the body, and frees its memory.
    pub(super) async fn parse<T: Send + 'static>(
        &mut self,
        api: &Api,
        tenant: TenantId,
        parse: fn(&[u8], &Context<'_>) -> Result<T, Rejection>,
    ) -> Result<T, ApiError> {
        let streams: Arc<[String]> = api.acceptor.streams(tenant).await?;
        let now = api.clock.now();
        loop {
            let (streams, limits) = (streams.clone(), api.limits.clone());
            let work = move |json: &[u8], files: &Files| {
                parse(json, &Context { now, limits: &limits, streams: &streams, files })
            };
            match self.process(work).await? {
                Err(Rejection::NeedsBlobs(digests)) if self.files.blobs.is_none() => {
                    self.files.blobs = Some(api.acceptor.find_blobs(tenant, &digests).await?);
                }
                Err(rejection) => return Err(rejection.into()),
                Ok(parsed) => {
                    (self.json, self.files) = (Vec::new(), Files::default());
                    return Ok(parsed);
                }
            }
        }
    }

    /// Computes the hashes of the request.
    pub(super) async fn hashes(&mut self) -> Result<RequestHashes, ApiError> {
        Ok(self.process(request::hashes).await??)
    }

    /// Processes the body; a large one on a blocking thread.
    async fn process<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&[u8], &Files) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if self.json.len() <= LARGE_BODY_BYTES {
            return Ok(work(&self.json, &self.files));
        }
        let (json, files) = (std::mem::take(&mut self.json), std::mem::take(&mut self.files));
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&json, &files);
            (result, json, files)
        });
        let (result, json, files) = task.await.map_err(|_| ApiError::Internal)?;
        (self.json, self.files) = (json, files);
        Ok(result)
    }
}
