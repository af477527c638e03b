//! Returns a message as it is sent, and its attachments.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt as _, stream};

use super::plan;
use super::read::{NO_MESSAGE, find_visible, load_row};
use crate::db::DbError;
use crate::db::messages;
use crate::db::messages::blobs::{self, objects};
use crate::domain::api::binary::Binary;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::Scope;
use crate::domain::message::Attachment;
use crate::http::auth::Caller;
use crate::http::limits::memory_limit::{Owner, Reservation};
use crate::http::request::params::PathId;
use crate::http::{Api, ApiError, AuthErrors, MessageErrors, response};
use crate::object_storage::ObjectError;

const SIGNATURES: HeaderName = HeaderName::from_static("postrider-signatures");
const NO_ATTACHMENT: ApiError = ApiError::NotFound("The message has no attachment with this index; the first is 0.");

/// Get a message as sent
///
/// Returns the MIME message, byte for byte as it is sent, signed with the domain's current keys. The signatures stay
/// the same until the domain's keys are rotated or the domain is registered or removed. Signatures of past attempts are
/// not stored: after the first attempt the response has the header `Postrider-Signatures: current`. The message has no
/// signatures if the keys cannot be decrypted.
#[utoipa::path(
    get, path = "/v1/messages/{id}/raw", tag = "messages", operation_id = "get_message_raw",
    params(("id" = String, Path, description = "The id of the message")),
    responses(
        (status = 200, description = "The MIME message", body = inline(Binary), content_type = "message/rfc822",
         headers(("Postrider-Signatures" = String, description = "`current` if the message has been attempted: the signatures are from the current keys and may differ from those of the attempts"))),
        AuthErrors, MessageErrors,
        (status = 410, description = "The content was deleted, because of its age or by request"),
        (status = 409, description = "The message has an unsubscribe link, which this process cannot create without `public_url` and `secret_key`, or it was sent from SQL, and is not accepted yet or was rejected"),
    ),
)]
pub async fn raw(State(api): State<Api>, caller: Caller, PathId(id): PathId<MessageId>) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let key = (caller.tenant(), id.0).into();
    let load = || async { messages::stored::load(&api.db, &key, |_| true).await.map(|mut found| found.pop()) };
    let mut stored = find_visible(&api, &caller, id, load, |stored| &stored.row.from_address).await?;
    let recipients = messages::recipients(&api.db, caller.tenant(), &[id.0], api.clock.now()).await?;
    let was_attempted = recipients.iter().any(|recipient| recipient.attempts > 0);
    // Attachments and MIME, which is a third larger, are in memory at the same time.
    let size = u64::try_from(stored.row.size).unwrap_or(0);
    let need = size.saturating_mul(5) / 2;
    let reservation =
        if stored.has_content() { None } else { Some(api.responses.reserve(Some(caller.requester()), need).await?) };
    let draft = stored.draft(&api.db, api.links.as_ref(), &*api.renderer).await?;
    let sender_status = api.domains.senders.get(caller.tenant(), draft.from.address.domain()).await?;
    let build = move || plan::build_mime(&draft, sender_status.signer().as_deref());
    let kind = [(header::CONTENT_TYPE, "message/rfc822")];
    let mut response = match reservation {
        Some(reservation) => {
            let mime = tokio::task::spawn_blocking(build).await.map_err(|_| ApiError::Internal)?;
            reservation.shrink(mime.len() as u64);
            response::mark_reserved(
                (kind, Body::from(response::with_reservation(mime, Arc::new(reservation)))).into_response(),
            )
        }
        None => (kind, build()).into_response(),
    };
    if was_attempted {
        // The attempts may have been signed with other keys.
        response.headers_mut().insert(SIGNATURES, HeaderValue::from_static("current"));
    }
    Ok(response)
}

/// Download an attachment
///
/// Returns the attachment as `application/octet-stream`, so that browsers download it and never display it.
#[utoipa::path(
    get, path = "/v1/messages/{id}/attachments/{n}", tag = "messages", operation_id = "get_message_attachment",
    params(
        ("id" = String, Path, description = "The id of the message"),
        ("n" = u32, Path, description = "The attachment's index in the request, from 0"),
    ),
    responses(
        (status = 200, description = "The attachment", body = inline(Binary), content_type = "application/octet-stream"),
        AuthErrors, MessageErrors,
        (status = 410, description = "The content was deleted, because of its age or by request"),
    ),
)]
pub async fn attachment(
    State(api): State<Api>,
    caller: Caller,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let Path((id, n)) = path.map_err(|_| NO_MESSAGE)?;
    let id: MessageId = id.parse().map_err(|_| NO_MESSAGE)?;
    let n: usize = n.parse().map_err(|_| NO_ATTACHMENT)?;
    load_row(&api, &caller, id).await?;
    download(&api, caller.tenant(), Some(caller.requester()), id, n).await
}

/// Returns an attachment as a download. Its memory counts against `owner`.
pub(in crate::http) async fn download(
    api: &Api,
    tenant: TenantId,
    owner: Owner,
    id: MessageId,
    n: usize,
) -> Result<Response, ApiError> {
    // The callers have found the message.
    let stored = messages::attachments(&api.db, tenant, id).await?.ok_or_else(ApiError::content_deleted)?;
    let attachments: Vec<Attachment> = serde_json::from_value(stored).map_err(|_| ApiError::Internal)?;
    let attachment = attachments.get(n).filter(|file| file.is_listed()).ok_or(NO_ATTACHMENT)?;
    let content = content(api, tenant, owner, attachment).await?;
    let size = [(header::CONTENT_LENGTH, HeaderValue::from(attachment.size))];
    Ok((download_headers(&attachment.filename), size, content).into_response())
}

/// Returns the headers of the download of a file with this name.
pub(in crate::http) fn download_headers(filename: &str) -> [(HeaderName, HeaderValue); 3] {
    let name = encode_filename(filename);
    let disposition = HeaderValue::try_from(format!("attachment; filename*=UTF-8''{name}"));
    [
        // Never the sender's type: the response must not run in a browser.
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::CONTENT_DISPOSITION, disposition.unwrap_or(HeaderValue::from_static("attachment"))),
    ]
}

/// Maximum chunks of an attachment in memory: one is read while another is sent.
const CHUNKS: u64 = 2;

/// Streams an attachment's bytes, chunk by chunk as the client reads them.
async fn content(api: &Api, tenant: TenantId, owner: Owner, attachment: &Attachment) -> Result<Body, ApiError> {
    let (db, size) = (api.db.clone(), attachment.size);
    let need = size.min(CHUNKS * blobs::CHUNK_BYTES as u64);
    let reservation = Arc::new(api.responses.reserve(owner, need).await?);
    // Reads the first chunk before the response starts, so that a missing blob or an unavailable database returns an
    // error.
    let first = blobs::chunk(&db, tenant, &attachment.sha256, 0).await?.unwrap_or_default();
    if first.is_empty() && size > 0 {
        let key = objects::find(&db, tenant, &attachment.sha256).await?.ok_or(NO_ATTACHMENT)?;
        return object(api, &key, size, reservation).await;
    }
    let sha256 = attachment.sha256.clone();
    let chunks = i32::try_from(size.div_ceil(blobs::CHUNK_BYTES as u64)).unwrap_or(i32::MAX);
    let first = response::with_reservation(first, reservation.clone());
    let rest = stream::iter(1..chunks).then(move |n| {
        let (db, sha256, reservation) = (db.clone(), sha256.clone(), reservation.clone());
        async move {
            let chunk = blobs::chunk(&db, tenant, &sha256, n).await?;
            let missing = || DbError::not_found("blobs.chunk");
            Ok::<_, DbError>(response::with_reservation(chunk.ok_or_else(missing)?, reservation))
        }
    });
    Ok(Body::from_stream(stream::iter([Ok(first)]).chain(rest)))
}

/// Streams an object's bytes as the client reads them.
async fn object(api: &Api, key: &str, size: u64, reservation: Arc<Reservation>) -> Result<Body, ApiError> {
    let objects = api.db.objects().ok_or(ObjectError::NotConfigured)?;
    // Boxed, because the future is large.
    let chunks = Box::pin(objects.stream(key, size)).await?;
    Ok(Body::from_stream(
        chunks.map(move |chunk| chunk.map(|chunk| response::with_reservation(chunk, reservation.clone()))),
    ))
}

/// Encodes a file name for `filename*` (RFC 8187).
fn encode_filename(name: &str) -> String {
    url::form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20").replace('*', "%2A")
}
