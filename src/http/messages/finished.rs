//! `POST /v1/messages` with `Content-Type: message/rfc822`: a finished MIME message.

use axum::body::Body;
use axum::http::HeaderMap;
use axum::response::Response;

use super::create;
use super::plan;
use crate::accept::request::mime::{self, MimeRequest, PARAMETERS, Parameters};
use crate::accept::request::{Context, RequestHashes};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::request::idempotency;
use crate::http::request::params::Params;
use crate::http::request::send_body::LARGE_BODY_BYTES;
use crate::http::{Api, ApiError};

/// Adds a fault for each query parameter that only finished messages have, because the request has a JSON body.
pub(super) fn refuse_parameters(params: &mut Params) {
    let message = "Only for a body of the type `message/rfc822`; use the field of the JSON body.";
    params.refuse(PARAMETERS.iter().map(|parameter| parameter.name), message);
}

/// Accepts a message, or returns its delivery plan.
pub(super) async fn create(
    api: Api,
    caller: Caller,
    is_dry_run: bool,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let parameters = Parameters::new(|name| params.all(name));
    params.finish()?;
    let read = api.bodies.finished(Some(caller.requester()), &headers, body).await?;
    let mut bytes = read.bytes;
    let key = if is_dry_run { None } else { idempotency::key(&headers)? };
    let mut idempotency = None;
    if let Some(key) = key {
        let given = parameters.clone();
        let hashes;
        (hashes, bytes) = process(bytes, move |bytes| (mime::hashes(&bytes, &given), bytes)).await?;
        if let Some(first) = api.acceptor.first_use(caller.tenant(), caller.key_id(), key).await? {
            return create::replay_same(&api, &caller, &first, hashes).await;
        }
        let RequestHashes { fingerprint, digest } = hashes;
        idempotency = Some(IdempotencyKey { key: key.to_owned(), owner: caller.key_id(), fingerprint, digest });
    }
    let message = parse(&api, &caller, bytes, parameters, api.bodies.max_message()).await?;
    if is_dry_run {
        return plan::respond(&api, &caller, message, read.reservation).await;
    }
    create::commit(&api, &caller, message, idempotency, [read.reservation, None]).await
}

/// Returns a valid message that the caller may send. It has at most `max` bytes.
pub(in crate::http) async fn parse(
    api: &Api,
    caller: &Caller,
    bytes: Vec<u8>,
    parameters: Parameters,
    max: u64,
) -> Result<NewMessage, ApiError> {
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let (now, limits) = (api.clock.now(), api.limits.clone());
    let parse = move |bytes| mime::parse(bytes, max, &parameters, &Context::new(now, &limits, &streams));
    let MimeRequest { message, sender_domains } = process(bytes, parse).await??;
    create::require_permission(caller, &message)?;
    for domain in &sender_domains {
        caller.require_sender_domain(domain)?;
    }
    Ok(message)
}

/// Processes a message; a large one on a blocking thread.
pub(in crate::http) async fn process<T: Send + 'static>(
    bytes: Vec<u8>,
    work: impl FnOnce(Vec<u8>) -> T + Send + 'static,
) -> Result<T, ApiError> {
    if bytes.len() > LARGE_BODY_BYTES {
        return tokio::task::spawn_blocking(move || work(bytes)).await.map_err(|_| ApiError::Internal);
    }
    Ok(work(bytes))
}
