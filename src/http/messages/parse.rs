//! Parses the bodies of requests that send messages, with the templates that they name.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use crate::accept::request::render::{TemplateRef, Templates};
use crate::accept::request::{Context, Rejection};
use crate::http::auth::Caller;
use crate::http::memory_limit::Reservation;
use crate::http::{Api, ApiError};

/// Larger bodies are parsed on a blocking thread: parsing takes about 1 ms per megabyte.
pub(super) const LARGE_BODY_BYTES: usize = 256 << 10;

/// A parsed body.
#[derive(Debug)]
pub(super) struct Parsed<T> {
    pub value: T,
    /// The memory of what templates rendered; held until it is stored.
    pub rendered: Option<Reservation>,
}

/// Parses a body with `read`, and frees its memory. A body that names templates is parsed again once they are loaded.
pub(super) async fn parse<T: Send + 'static>(
    api: &Api,
    caller: &Caller,
    body: Vec<u8>,
    read: fn(&[u8], &Context<'_>) -> Result<T, Rejection>,
) -> Result<Parsed<T>, ApiError> {
    let streams: Arc<[String]> = api.acceptor.streams(caller.tenant()).await?;
    let (now, limits) = (api.clock.now(), api.limits.clone());
    let parse = move |body: &[u8], templates: &Templates| {
        read(body, &Context { now, limits: &limits, streams: &streams, templates })
    };
    let is_large = body.len() > LARGE_BODY_BYTES;
    let first = parse.clone();
    match process(body, is_large, move |body| first(body, &Templates::default())).await? {
        Ok(value) => Ok(Parsed { value, rendered: None }),
        // Boxed, so that a request without templates does not carry the state.
        Err((Rejection::NeedsTemplates(names), body)) => {
            Box::pin(with_templates(api, caller, body, names, parse)).await
        }
        Err((rejection, _)) => Err(rejection.into()),
    }
}

async fn with_templates<T: Send + 'static>(
    api: &Api,
    caller: &Caller,
    body: Vec<u8>,
    names: Vec<TemplateRef>,
    parse: impl FnOnce(&[u8], &Templates) -> Result<T, Rejection> + Send + 'static,
) -> Result<Parsed<T>, ApiError> {
    let templates = api.acceptor.templates().load(caller.tenant(), names).await?;
    let is_cheap = templates.are_cheap();
    // Bounds the memory of what is rendered until it is reserved.
    let _permit = if is_cheap { None } else { Some(api.renders.acquire(caller.key_id()).await?) };
    let is_slow = !is_cheap || body.len() > LARGE_BODY_BYTES;
    let work = move |body: &[u8]| parse(body, &templates).map(|value| (value, templates.rendered_bytes()));
    let (value, bytes) = process(body, is_slow, work).await?.map_err(|(rejection, _)| rejection)?;
    let rendered = api.bodies.reserve_rendered(Some(caller.key_id()), bytes).await?;
    Ok(Parsed { value, rendered })
}

/// Processes a body; on a blocking thread if that is slow. A rejected body is returned.
pub(super) async fn process<T: Send + 'static>(
    body: Vec<u8>,
    is_slow: bool,
    work: impl FnOnce(&[u8]) -> Result<T, Rejection> + Send + 'static,
) -> Result<Result<T, (Rejection, Vec<u8>)>, ApiError> {
    let work = move || match work(&body) {
        Ok(value) => Ok(value),
        Err(rejection) => Err((rejection, body)),
    };
    if is_slow {
        return spawn_blocking(work).await.map_err(|_| ApiError::Internal);
    }
    Ok(work())
}
