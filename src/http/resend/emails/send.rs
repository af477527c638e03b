//! `POST /emails`.

use std::collections::BTreeMap;
use std::ops::Range;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;
use uuid::Uuid;

use super::downloads;
use crate::accept::request::batch::Refused;
use crate::accept::request::files::{FilePart, Files};
use crate::accept::request::{self as native, Rejection, RequestHashes};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::limits::concurrency_limit::RENDERS_OF_BATCH;
use crate::http::messages::create;
use crate::http::request::body::ReadBody;
use crate::http::request::form::KEPT_BYTES;
use crate::http::request::idempotency;
use crate::http::request::send_body::SendBody;
use crate::http::resend::request::{self, Download, Options, Translation};
use crate::http::{Api, ApiError};

/// Bodies above this size are translated on a blocking thread, which also derives their texts. Deriving a text takes
/// longer than parsing.
const LARGE_BODY_BYTES: usize = 8 << 10;

/// The id of an accepted message.
#[derive(Debug, Serialize)]
pub(in crate::http::resend) struct SentEmail {
    pub id: Uuid,
}

/// Accepts a message.
pub(in crate::http::resend) async fn send(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SentEmail>, ApiError> {
    caller.require(Scope::Send)?;
    let key = idempotency::key(&headers)?;
    let hashes = key.map(|_| native::hashes as ComputeHashes);
    let body = api.bodies.resend(Some(caller.requester()), &headers, body).await?;
    let translated = translate(&api, &caller, body, request::message, hashes).await?;
    // Boxed, because the future is large.
    let committed = Box::pin(submit(&api, &caller, translated, key)).await?;
    Ok(Json(SentEmail { id: committed.view.id.0 }))
}

async fn submit(
    api: &Api,
    caller: &Caller,
    TranslatedBody { mut body, hashes, htmls, downloads, .. }: TranslatedBody,
    key: Option<&str>,
) -> Result<create::Committed, ApiError> {
    let mut idempotency = None;
    if let (Some(key), Some(hashes)) = (key, hashes) {
        if let Some(first) = api.acceptor.first_use(caller.tenant(), caller.key_id(), key).await? {
            return create::find_same(api, caller, &first, hashes).await;
        }
        let RequestHashes { fingerprint, digest } = hashes;
        idempotency = Some(IdempotencyKey { key: key.to_owned(), owner: caller.key_id(), fingerprint, digest });
    }
    downloads::validate(api, caller, &mut body, &downloads).await?;
    let caller = &downloads::add(api, caller, &mut body, downloads).await?;
    derive_texts(api, caller, &mut body, htmls).await?;
    let message = body.parse(api, caller, native::parse).await?;
    create::require_permission(caller, &message)?;
    create::submit(api, caller, message, idempotency, [body.reservation, body.rendered]).await
}

/// Computes the hashes of a request from its canonical form.
pub(super) type ComputeHashes = fn(&[u8], &Files) -> Result<RequestHashes, Rejection>;

/// A body for `/v1`, and the hashes of the request if it has an `Idempotency-Key`.
pub(super) struct TranslatedBody {
    pub body: SendBody,
    pub hashes: Option<RequestHashes>,
    /// The HTML bodies from which [`derive_texts`] derives texts.
    pub htmls: Vec<Range<usize>>,
    /// The files that [`downloads::add`] adds to the body.
    pub downloads: Vec<Download>,
    /// The position in the request of each message of the body.
    pub indexes: Vec<usize>,
    /// The messages of a permissive batch that are not in the body.
    pub refused: Vec<Refused>,
}

/// Translates the body of a request that sends messages, and stores its large files.
pub(super) async fn translate(
    api: &Api,
    caller: &Caller,
    ReadBody { bytes, reservation }: ReadBody,
    translate: impl FnOnce(&[u8], &Options) -> Result<Option<Translation>, Rejection> + Send + 'static,
    hashes: Option<ComputeHashes>,
) -> Result<TranslatedBody, ApiError> {
    let (max, size) = (api.bodies.max_message(), bytes.len());
    let max_size = usize::try_from(max).unwrap_or(usize::MAX);
    let downloads = api.fetcher.as_ref().map(|_| api.limits.attachments);
    let options = Options { now: api.clock.now(), max: max_size, is_keyed: hashes.is_some(), downloads };
    let work = move || {
        let Some(mut translation) = translate(&bytes, &options)? else { return Ok(None) };
        drop(bytes);
        let files = Files { parts: Some(std::mem::take(&mut translation.parts)), ..Files::default() };
        let canonical = std::mem::take(&mut translation.canonical);
        let hashes = hashes.map(|compute| compute(&canonical, &files)).transpose()?;
        Ok(Some((translation, files, hashes)))
    };
    let translated = create::run(size, size > LARGE_BODY_BYTES, work).await?;
    let (translation, mut files, hashes) = translated.ok_or(ApiError::TooLarge(max))?;
    let Translation { json, htmls, downloads, indexes, refused, .. } = translation;
    store_large(api, caller, files.parts.iter_mut().flatten().map(|(_, part)| part)).await?;
    if let Some(reservation) = &reservation {
        // Deriving texts copies the JSON; parsing copies the texts and the files.
        let html: usize = htmls.iter().map(ExactSizeIterator::len).sum();
        reservation.shrink(2 * (json.len() + html + KEPT_BYTES) as u64);
    }
    let body = SendBody::new(json, files, reservation);
    Ok(TranslatedBody { body, hashes, htmls, downloads, indexes, refused })
}

/// Adds the texts that are derived from these HTML bodies. For a large body, this counts as rendering templates.
pub(super) async fn derive_texts(
    api: &Api,
    caller: &Caller,
    body: &mut SendBody,
    htmls: Vec<Range<usize>>,
) -> Result<(), ApiError> {
    if htmls.is_empty() {
        return Ok(());
    }
    let size = body.json.len();
    let is_large = size > LARGE_BODY_BYTES;
    let permit = if is_large {
        let weight = if htmls.len() > 1 { RENDERS_OF_BATCH } else { 1 };
        Some(api.renders.acquire_many(caller.requester(), weight).await?)
    } else {
        None
    };
    let json = std::mem::take(&mut body.json);
    let work = move || {
        // The permit is held until the work ends, even if the client has disconnected.
        let _permit = permit;
        Ok(request::with_texts(&json, &htmls))
    };
    body.json = create::run(size, is_large, work).await?;
    Ok(())
}

/// Stores the files in the database, except files of up to [`KEPT_BYTES`] together, which stay in memory.
async fn store_large(api: &Api, caller: &Caller, parts: impl Iterator<Item = &mut FilePart>) -> Result<(), ApiError> {
    let mut kept = 0;
    let mut large = BTreeMap::new();
    for part in parts {
        if kept + part.data.len() <= KEPT_BYTES {
            kept += part.data.len();
        } else {
            large.insert(part.sha256.clone(), std::mem::take(&mut part.data));
        }
    }
    if !large.is_empty() {
        api.acceptor.store_files(caller.tenant(), large.into_iter().collect()).await?;
    }
    Ok(())
}
