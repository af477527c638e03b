//! `POST /v1/messages`, with a JSON body; [`finished`](super::finished) handles finished MIME.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use super::plan::{self, Plan};
use super::read::view::Accepted;
use super::sender::{self, Warning};
use super::{finished, reply};
use crate::accept;
use crate::accept::request::schema::{MessageForm, SendRequest};
use crate::accept::request::{self, Rejection, RequestHashes};
use crate::db::messages;
use crate::db::messages::idempotency::KeyUse;
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::api::binary::Binary;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::limits::allowances::settle;
use crate::http::limits::memory_limit::Reservation;
use crate::http::located::with_location;
use crate::http::request::body::is_finished;
use crate::http::request::form::BodyFormat;
use crate::http::request::idempotency;
use crate::http::request::params::Params;
use crate::http::request::send_body::{LARGE_BODY_BYTES, SendBody};
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};

/// The error for a message with `ignore_suppression` from a key without the scope `admin`.
pub(super) const IGNORES_SUPPRESSION: &str = "This key lacks the scope `admin`, which `ignore_suppression` requires.";
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Send a message
///
/// Returns 202 after the message has been committed to the database, never before. Delivery continues in the
/// background; `GET /v1/messages/{id}` returns its status. A recipient on the suppression list is not sent to and is
/// `suppressed` from the start; the message is `suppressed` if all of its recipients are. This is not an error: the
/// message is stored and can be explained. Large attachments are best sent as a form, or uploaded first with
/// `PUT /v1/blobs/{sha256}`: they are stored as they arrive.
///
/// With `Content-Type: message/rfc822`, the body is a finished MIME message, and query parameters take the place of the
/// JSON fields. It is sent as it is, signed with DKIM, except that line ends become CRLF, the header fields `Bcc`,
/// `Resent-Bcc`, `Return-Path` and `X-Postrider-*` are removed, and `Date`, `Message-ID` and the stream's unsubscribe
/// link are added if they are missing.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", operation_id = "send_message",
    params(
        ("Idempotency-Key" = Option<String>, Header,
         description = "1–256 characters. Repeating a request with the same key returns the first response again, with `Idempotent-Replayed: true`; the order of JSON fields and white space do not matter. Each API key has its own idempotency keys. Ignored in a dry run."),
        ("dry_run" = Option<bool>, Query,
         description = "`true`: validates the request and returns 200 with a delivery plan; no message is stored or sent (files of a form are stored like uploads). Queue positions, destinations' replies and reasons of pauses are included only for keys with the scope `read` and without `sender_domains`."),
        ("to" = Option<Vec<String>>, Query, description = "Only for finished MIME: the recipients, one per parameter; by default those in the header fields `To`, `Cc` and `Bcc`"),
        ("from" = Option<String>, Query, description = "Only for finished MIME: the envelope sender if no return path is configured; by default the address in `From`"),
        ("stream" = Option<String>, Query, description = "Only for finished MIME, as the JSON field"),
        ("tag" = Option<Vec<String>>, Query, description = "Only for finished MIME: a tag as `name:value`; may be repeated"),
        ("metadata" = Option<Vec<String>>, Query, description = "Only for finished MIME: metadata as `name:value`; may be repeated"),
        ("scheduled_at" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Only for finished MIME, as the JSON field"),
        ("expires_at" = Option<chrono::DateTime<chrono::Utc>>, Query, description = "Only for finished MIME, as the JSON field"),
        ("on_uncertain" = Option<crate::domain::outcome::OnUncertain>, Query, description = "Only for finished MIME, as the JSON field"),
        ("ignore_suppression" = Option<bool>, Query, description = "Only for finished MIME, as the JSON field"),
    ),
    request_body(content((SendRequest = "application/json"), (MessageForm = "multipart/form-data"), (inline(Binary) = "message/rfc822"))),
    responses(
        (status = 200, description = "Dry run: the delivery plan", body = Plan),
        (status = 202, description = "The accepted message", body = Accepted,
         headers(("Location" = String, description = "The path of the message"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A request with this `Idempotency-Key` is still in progress"),
        (status = 415, description = "The content type is not `application/json`, `multipart/form-data` or `message/rfc822`"),
        (status = 503, description = "The database is unavailable. The message may or may not have been accepted; retry the request with the same `Idempotency-Key`"),
    ),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.require(Scope::Send)?;
    let dry_run = params.read("dry_run", "Pass `true` or `false`.", |text| text.parse::<bool>().ok());
    if is_finished(&headers) {
        // Boxed, because this future is moved for every message.
        return Box::pin(finished::create(api, caller, dry_run == Some(true), params, headers, body)).await;
    }
    if !params.is_empty() {
        finished::refuse_parameters(&mut params);
    }
    params.finish()?;
    let mut body = SendBody::read(&api, &caller, &headers, body, BodyFormat::message(&api)).await?;
    if dry_run == Some(true) {
        let mut message = body.parse(&api, &caller, request::parse).await?;
        require_permission(&caller, &message)?;
        reply::set_headers(&api, &caller, &mut message).await?;
        return plan::respond(&api, &caller, message, body.reservation).await;
    }
    let key = idempotency::key(&headers)?;
    if let Some(key) = key
        && let Some(first) = api.acceptor.first_use(caller.tenant(), caller.key_id(), key).await?
    {
        return replay_if_same(&api, &caller, &first, body).await;
    }
    let (mut message, idempotency) = match key {
        Some(key) => {
            let (message, hashes) = body.parse(&api, &caller, request::parse_keyed).await?;
            let RequestHashes { fingerprint, digest } = hashes;
            (message, Some(IdempotencyKey { key: key.to_owned(), owner: caller.key_id(), fingerprint, digest }))
        }
        None => (body.parse(&api, &caller, request::parse).await?, None),
    };
    require_permission(&caller, &message)?;
    reply::set_headers(&api, &caller, &mut message).await?;
    commit(&api, &caller, message, idempotency, [body.reservation, body.rendered]).await
}

/// Commits a valid message that the caller may send, and returns the response. `memory` has the memory reservations of
/// the request body and of what its template has rendered.
pub(super) async fn commit(
    api: &Api,
    caller: &Caller,
    message: NewMessage,
    idempotency: Option<IdempotencyKey>,
    memory: [Option<Reservation>; 2],
) -> Result<Response, ApiError> {
    let Committed { view, is_replay } = submit(api, caller, message, idempotency, memory).await?;
    Ok(accepted_response(&view, is_replay))
}

/// The result of a request to send a message.
pub(in crate::http) struct Committed {
    pub view: Accepted,
    /// Whether the message was accepted by an earlier request with the same `Idempotency-Key`.
    pub is_replay: bool,
}

/// Commits a valid message that the caller may send.
pub(in crate::http) async fn submit(
    api: &Api,
    caller: &Caller,
    message: NewMessage,
    idempotency: Option<IdempotencyKey>,
    memory: [Option<Reservation>; 2],
) -> Result<Committed, ApiError> {
    let (_, mut warnings) = sender::admit(api, caller.tenant(), message.from.address.domain()).await?;
    if sender::has_no_unsubscribe_link(&message)
        && api.acceptor.has_unsubscribe_links(caller.tenant(), &message.stream).await?
    {
        warnings.push(Warning::needs_one_recipient(&message));
    }
    warnings.extend_from_slice(&message.warnings);
    let mut view = Accepted { warnings, ..Accepted::from_new(&message) };
    let count = message.recipients.len();
    let reserved = api.allowances.reserve(caller.key(), count).await?;
    let result = api.acceptor.accept(caller.tenant(), caller.key_id(), message, idempotency).await;
    let used = match &result {
        Ok(accept::Accepted::New { .. }) => Some(count),
        Err(error) if error.may_be_done() => None,
        Ok(accept::Accepted::Replayed(_)) | Err(_) => Some(0),
    };
    settle(reserved, used);
    let accepted = result?;
    // The memory of a large body stays reserved until here, because its attachments are stored by now.
    drop(memory);
    match accepted {
        accept::Accepted::New { suppressed } => {
            view.suppress(&suppressed);
            Ok(Committed { view, is_replay: false })
        }
        accept::Accepted::Replayed(first) => replay(api, caller, first).await,
    }
}

/// Fails if the key may not send this message.
pub(in crate::http) fn require_permission(caller: &Caller, message: &NewMessage) -> Result<(), ApiError> {
    caller.require_sender_domain(message.from.address.domain())?;
    if message.ignore_suppression && !caller.has_scope(Scope::Admin) {
        return Err(caller.forbidden_fields(vec![Fault {
            pointer: "/ignore_suppression".into(),
            code: Code::Forbidden.as_str(),
            message: IGNORES_SUPPRESSION.into(),
        }]));
    }
    Ok(())
}

/// Runs work on a body of this size; on a blocking thread if the body is large or the work is expensive.
pub(in crate::http) async fn run<T: Send + 'static>(
    size: usize,
    is_expensive: bool,
    work: impl FnOnce() -> Result<T, Rejection> + Send + 'static,
) -> Result<T, ApiError> {
    if size > LARGE_BODY_BYTES || is_expensive {
        return Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)??);
    }
    Ok(work()?)
}

/// Returns the first response again if the request is the same as the first one with its `Idempotency-Key`.
async fn replay_if_same(api: &Api, caller: &Caller, first: &KeyUse, mut body: SendBody) -> Result<Response, ApiError> {
    let hashes = body.hashes(request::hashes).await?;
    replay_same(api, caller, first, hashes).await
}

/// Returns the first response again if the first request had the same hashes.
pub(super) async fn replay_same(
    api: &Api,
    caller: &Caller,
    first: &KeyUse,
    hashes: RequestHashes,
) -> Result<Response, ApiError> {
    let Committed { view, is_replay } = find_same(api, caller, first, hashes).await?;
    Ok(accepted_response(&view, is_replay))
}

/// Returns the message of the first request with the key if that request had the same hashes.
pub(in crate::http) async fn find_same(
    api: &Api,
    caller: &Caller,
    first: &KeyUse,
    hashes: RequestHashes,
) -> Result<Committed, ApiError> {
    let RequestHashes { fingerprint, digest } = hashes;
    if first.is_same_request(&fingerprint, &digest) {
        return replay(api, caller, MessageId(first.message_id)).await;
    }
    Err(ApiError::KeyReused)
}

/// Returns the message of the first request. Checks the sender, since idempotency keys of earlier versions are valid for
/// the whole tenant.
async fn replay(api: &Api, caller: &Caller, id: MessageId) -> Result<Committed, ApiError> {
    let deleted = ApiError::NotFound("The message of this `Idempotency-Key` has been deleted.");
    let row = messages::get(&api.db, caller.tenant(), id).await?.ok_or(deleted)?;
    caller.require_sender_domain(row.from_address.rsplit_once('@').map_or("", |(_, domain)| domain))?;
    let recipients = messages::recipients(&api.db, caller.tenant(), &[id.0], api.clock.now()).await?;
    Ok(Committed { view: Accepted::from_stored(&row, recipients), is_replay: true })
}

fn accepted_response(view: &Accepted, replayed: bool) -> Response {
    let mut response = with_location(format!("/v1/messages/{}", view.id), (StatusCode::ACCEPTED, Json(view)));
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn create_future_is_small() {
        fn size<F>(_: fn(State<Api>, Caller, Params, HeaderMap, Body) -> F) -> usize {
            size_of::<F>()
        }
        // The future is moved for every message; an unboxed database call in it takes 30 KB.
        assert!(size(create) <= 8 << 10, "{} bytes", size(create));
    }
}
