//! `/v1/blobs/{sha256}`: uploads of files that messages attach by their SHA-256.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;

use super::auth::Caller;
use super::located::with_location;
use super::request::body::UploadBody;
use super::request::params::Params;
use super::{Api, ApiError, AuthErrors, NotFound};
use crate::accept::blobs::upload::Upload;
use crate::accept::request::files;
use crate::domain::api::binary::Binary;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;

const NO_BLOB: ApiError = ApiError::NotFound("No file with this SHA-256 is stored.");

/// An uploaded file.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Blob)]
pub struct BlobView {
    /// The SHA-256 of the file, as 64 hexadecimal digits in lower case.
    #[schema(example = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")]
    pub sha256: String,
    /// The size of the file in bytes.
    #[schema(example = 48_213)]
    pub size: u64,
}

/// Upload a file
///
/// Stores the body, so that messages can attach it by its SHA-256 any number of times:
/// `{"filename": "invoice.pdf", "sha256": "…"}`. The body may have any content type and up to 40 MiB
/// (`accept.max_upload_mib`), and is stored as it arrives. Repeating the request has no further effect. A file that no
/// message refers to is deleted a week after its last use (`retention.unused_blobs`). Files belong to the tenant.
#[utoipa::path(
    put, path = "/v1/blobs/{sha256}", tag = "blobs", operation_id = "upload_blob",
    params(("sha256" = String, Path, description = "The SHA-256 of the body, as 64 hexadecimal digits")),
    request_body(description = "The file", content((inline(Binary) = "application/octet-stream"))),
    responses(
        (status = 200, description = "The file was already stored", body = BlobView),
        (status = 201, description = "The file was stored", body = BlobView,
         headers(("Location" = String, description = "The path of the file"))),
        AuthErrors,
        (status = 400, description = "The request body ended early"),
        (status = 408, description = "The request body arrived too slowly"),
        (status = 413, description = "Request body too large"),
        (status = 415, description = "The body has a `Content-Encoding`"),
        (status = 422, description = "The body has another SHA-256, or the path contains none"),
        (status = 503, description = "Temporarily unavailable; nothing was stored"),
    ),
)]
pub async fn put(
    State(api): State<Api>,
    caller: Caller,
    params: Params,
    path: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Send)?;
    params.finish()?;
    let sha256 = path.ok().and_then(|Path(text)| files::digest(&text)).ok_or_else(|| {
        let message = "must be the SHA-256 of the body, as 64 hexadecimal digits".to_owned();
        ApiError::Invalid(vec![Fault { pointer: "sha256".into(), code: Code::InvalidValue.as_str(), message }])
    })?;
    let mut body = api.bodies.upload(Some(caller.requester()), &headers, body, api.max_upload, 0)?;
    let tenant = caller.tenant();
    let is_stored = !api.acceptor.find_blobs(tenant, std::slice::from_ref(&sha256)).await?.is_empty();
    let mut upload = if is_stored { api.acceptor.verify(tenant) } else { api.acceptor.upload(tenant) };
    if let Err(error) = receive(&api, &headers, &mut body, &mut upload).await {
        upload.discard().await;
        return Err(error);
    }
    let uploaded = upload.finish(Some(&sha256)).await?;
    let location = format!("/v1/blobs/{sha256}");
    let view = Json(BlobView { sha256, size: uploaded.size });
    if is_stored {
        return Ok(view.into_response());
    }
    Ok(with_location(location, (StatusCode::CREATED, view)))
}

async fn receive(
    api: &Api,
    headers: &HeaderMap,
    body: &mut UploadBody,
    upload: &mut Upload<'_>,
) -> Result<(), ApiError> {
    while let Some(bytes) = body.next().await? {
        upload.write(&bytes).await?;
    }
    // A body may take a long time to arrive; the key may have been revoked in the meantime.
    api.keys.recheck(headers).await
}

/// Check whether a file is stored
///
/// Returns the size of a stored file as `Content-Length`. The request counts as a use of the file: it is not deleted
/// within the next hours.
#[utoipa::path(
    head, path = "/v1/blobs/{sha256}", tag = "blobs", operation_id = "check_blob",
    params(("sha256" = String, Path, description = "The SHA-256 of the file, as 64 hexadecimal digits")),
    responses(
        (status = 200, description = "The file is stored",
         headers(("Content-Length" = u64, description = "The size of the file in bytes"))),
        AuthErrors, NotFound,
    ),
)]
pub async fn head(
    State(api): State<Api>,
    caller: Caller,
    path: Result<Path<String>, PathRejection>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Send)?;
    if api.db.is_read_only() {
        // The use of the file could not be recorded.
        return Err(ApiError::ReadOnly);
    }
    let sha256 = path.ok().and_then(|Path(text)| files::digest(&text)).ok_or(NO_BLOB)?;
    let found = api.acceptor.find_blobs(caller.tenant(), std::slice::from_ref(&sha256)).await?;
    let size = *found.get(&sha256).ok_or(NO_BLOB)?;
    let headers = [
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
        (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
    ];
    Ok((headers, Body::empty()).into_response())
}
