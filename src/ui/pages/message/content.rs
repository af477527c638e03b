//! The content of a message: its HTML in a frame of its own, the message as it is sent, and its attachments.

use axum::extract::{Path, Query};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse as _, Response};

use super::view::ShowQuery;
use crate::mail::content::{Content, read, with_images};
use crate::ui::call::segment;
use crate::ui::error::UiError;
use crate::ui::session::Visitor;

/// The policy of a message's HTML: it may set styles, show images that are part of it, and open links in a new window. It
/// runs no scripts, loads nothing (so no tracking pixel reports that it was looked at) and submits no forms.
const MESSAGE_POLICY: &str = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; \
    style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// The same with remote images, which the user has asked for.
const POLICY_WITH_IMAGES: &str = "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; \
    style-src 'unsafe-inline'; img-src data: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'";

/// Before the message's own content, so that its links do not open in the frame.
const NEW_WINDOW: &str = "<!doctype html><base target=\"_blank\">";

/// Runs `read` with the message as it is sent. On a thread for slow work, because a message may have megabytes.
async fn with_raw<T: Send + 'static>(
    visitor: &Visitor,
    id: &str,
    read: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> Result<T, UiError> {
    let raw = visitor.read_bytes(&format!("/v1/messages/{}/raw", segment(id))).await?;
    tokio::task::spawn_blocking(move || read(&raw)).await.map_err(|_| UiError::unreadable(&"a panic"))
}

/// Reads the content of a message. If it cannot be read, for example because a setting is missing, returns the reason instead.
pub(super) async fn load(visitor: &Visitor, id: &str) -> Result<Result<Content, String>, UiError> {
    match with_raw(visitor, id, read).await {
        Ok(content) => Ok(Ok(content)),
        Err(UiError::Failed(failure)) => Ok(Err(failure.text())),
        Err(signed_out @ UiError::SignedOut { .. }) => Err(signed_out),
    }
}

/// Returns the HTML for the frame of the preview.
pub(super) async fn html(
    visitor: Visitor,
    Path(id): Path<String>,
    Query(query): Query<ShowQuery>,
) -> Result<Response, UiError> {
    let html = with_raw(&visitor, &id, |raw| read(raw).html.map(|html| with_images(&html, raw))).await?;
    let html = html.ok_or_else(|| UiError::not_found("The message has no HTML."))?;
    Ok(framed(&html, query.has_images()))
}

/// Returns the HTML of a message for a frame, with remote images if the user has asked for them.
pub(in crate::ui::pages) fn framed(html: &str, has_images: bool) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, if has_images { POLICY_WITH_IMAGES } else { MESSAGE_POLICY }),
        (header::X_FRAME_OPTIONS, "SAMEORIGIN"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    (headers, format!("{NEW_WINDOW}{html}")).into_response()
}

/// Returns the class of the frame's height, for which the length of the HTML is a guess.
pub(in crate::ui::pages) fn preview_class(html: Option<&str>) -> &'static str {
    match html.map_or(0, str::len) {
        ..800 => " preview-short",
        800..4_000 => " preview-medium",
        _ => "",
    }
}

/// Returns the message as it is sent, as a download.
pub(super) async fn raw(visitor: Visitor, Path(id): Path<String>) -> Result<Response, UiError> {
    let id = segment(&id);
    let response = visitor.send(Method::GET, &format!("/v1/messages/{id}/raw"), None).await?;
    let name = HeaderValue::try_from(format!("attachment; filename=\"{id}.eml\""));
    Ok(download(response, name.unwrap_or(HeaderValue::from_static("attachment"))))
}

/// Returns an attachment as a download. The API sends it as `application/octet-stream`, so that no browser shows it.
pub(super) async fn attachment(visitor: Visitor, Path((id, n)): Path<(String, String)>) -> Result<Response, UiError> {
    let path = format!("/v1/messages/{}/attachments/{}", segment(&id), segment(&n));
    visitor.send(Method::GET, &path, None).await
}

pub(in crate::ui::pages) fn download(mut response: Response, disposition: HeaderValue) -> Response {
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    response
}
