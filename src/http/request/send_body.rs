//! The body of a request that sends messages: JSON, or a form with the JSON and files. Parsing it looks up the files and
//! the templates that the messages refer to.

use std::sync::Arc;

use axum::body::Body;
use axum::http::HeaderMap;

use super::body::is_type;
use super::form::{self, BodyFormat, Form};
use super::references::References;
use crate::accept::request::files::Files;
use crate::accept::request::{Context, Rejection, RequestHashes};
use crate::http::auth::Caller;
use crate::http::limits::memory_limit::Reservation;
use crate::http::{Api, ApiError};

/// Larger bodies are parsed on a blocking thread: parsing takes about 1 ms per megabyte.
pub(in crate::http) const LARGE_BODY_BYTES: usize = 256 << 10;

/// A body that has been read.
#[derive(Debug)]
pub(in crate::http) struct SendBody {
    /// The JSON.
    pub json: Vec<u8>,
    /// The files of a form, and the blobs and templates that the messages refer to.
    pub references: References,
    /// The memory of a large body, to be held until its attachments are stored.
    pub reservation: Option<Reservation>,
    /// The memory of the rendered template, to be held until the message is stored.
    pub rendered: Option<Reservation>,
}

impl SendBody {
    /// Reads the body.
    pub(in crate::http) async fn read(
        api: &Api,
        caller: &Caller,
        headers: &HeaderMap,
        body: Body,
        format: BodyFormat,
    ) -> Result<Self, ApiError> {
        if !is_type(headers, "multipart/form-data") {
            let read = api.bodies.message(Some(caller.requester()), headers, body, format.media_types).await?;
            return Ok(Self::new(read.bytes, Files::default(), read.reservation));
        }
        // Boxed, because the future is large, and part of every request that sends a message.
        let Form { json, parts, reservation } = Box::pin(form::read(api, caller, headers, body, format)).await?;
        if let Some(reservation) = &reservation {
            let in_memory: usize = parts.values().map(|part| part.data.len()).sum();
            // Parsing copies the texts and the files.
            reservation.shrink(2 * (json.len() + in_memory) as u64);
        }
        Ok(Self::new(json, Files { parts: Some(parts), ..Files::default() }, reservation))
    }

    /// Creates a body from its parts.
    pub(in crate::http) fn new(json: Vec<u8>, files: Files, reservation: Option<Reservation>) -> Self {
        Self { json, references: References::new(files), reservation, rendered: None }
    }

    /// Parses the body of one message, and frees the memory of its JSON.
    pub(in crate::http) async fn parse<T: Send + 'static>(
        &mut self,
        api: &Api,
        caller: &Caller,
        parse: fn(&[u8], &Context<'_>) -> Result<T, Rejection>,
    ) -> Result<T, ApiError> {
        let parsed = self.check(api, caller, parse).await?;
        self.json = Vec::new();
        self.rendered = std::mem::take(&mut self.references).finish(api, caller).await?;
        Ok(parsed)
    }

    /// Parses the body of one message, and keeps it.
    pub(in crate::http) async fn check<T: Send + 'static>(
        &mut self,
        api: &Api,
        caller: &Caller,
        parse: fn(&[u8], &Context<'_>) -> Result<T, Rejection>,
    ) -> Result<T, ApiError> {
        let streams: Arc<[String]> = api.acceptor.streams(caller.tenant()).await?;
        let now = api.clock.now();
        loop {
            let (streams, limits) = (streams.clone(), api.limits.clone());
            let work = move |json: &[u8], references: &References| {
                parse(json, &references.context(Context::new(now, &limits, &streams)))
            };
            match self.process(work).await? {
                Ok(parsed) => return Ok(parsed),
                Err(rejection) => {
                    // Boxed, because the future is part of every request that sends a message.
                    Box::pin(self.references.look_up(api, caller, rejection, 1)).await?;
                }
            }
        }
    }

    /// Computes the hashes of the request with this function.
    pub(in crate::http) async fn hashes(
        &mut self,
        hashes: fn(&[u8], &Files) -> Result<RequestHashes, Rejection>,
    ) -> Result<RequestHashes, ApiError> {
        Ok(self.process(move |json, references| hashes(json, &references.files)).await??)
    }

    /// Processes the body; on a blocking thread if the body is large or its templates are expensive.
    pub(in crate::http) async fn process<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&[u8], &References) -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if self.json.len() <= LARGE_BODY_BYTES && !self.references.is_expensive() {
            return Ok(work(&self.json, &self.references));
        }
        let (json, references) = (std::mem::take(&mut self.json), std::mem::take(&mut self.references));
        let task = tokio::task::spawn_blocking(move || {
            let result = work(&json, &references);
            (result, json, references)
        });
        let (result, json, references) = task.await.map_err(|_| ApiError::Internal)?;
        (self.json, self.references) = (json, references);
        Ok(result)
    }
}
