//! `POST /v1/messages`.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;

use super::parse::{self, Parsed};
use super::plan::{self, Plan};
use super::sender::{self, Warning};
use super::view::Accepted;
use crate::accept;
use crate::accept::request::schema::SendRequest;
use crate::accept::request::{self, RequestHashes};
use crate::db::messages;
use crate::db::messages::idempotency::KeyUse;
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::fault::{Code, Fault};
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::located::with_location;
use crate::http::params::Params;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors, idempotency};

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Send a message
///
/// Returns 202 after the message has been committed to the database, never before. Delivery continues in the
/// background; `GET /v1/messages/{id}` returns its status. A recipient on the suppression list is not sent to and is
/// `suppressed` from the start; the message is `suppressed` if all of its recipients are. This is not an error: the
/// message is stored and can be explained.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", operation_id = "send_message",
    params(
        ("Idempotency-Key" = Option<String>, Header,
         description = "1–256 characters. Repeating a request with the same key returns the first response again, with `Idempotent-Replayed: true`; the order of JSON fields and white space do not matter. Each API key has its own idempotency keys. Ignored in a dry run."),
        ("dry_run" = Option<bool>, Query,
         description = "`true`: validates the request and returns 200 with a delivery plan; nothing is stored or sent. Queue positions, destinations' replies and reasons of pauses are included only for keys with the scope `read` and without `sender_domains`."),
    ),
    request_body = SendRequest,
    responses(
        (status = 200, description = "Dry run: the delivery plan", body = Plan),
        (status = 202, description = "The accepted message", body = Accepted,
         headers(("Location" = String, description = "The path of the message"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A request with this `Idempotency-Key` is still in progress"),
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
    params.finish()?;
    let read = api.bodies.message(Some(caller.key_id()), &headers, body).await?;
    if dry_run == Some(true) {
        let Parsed { value: message, rendered: _rendered } =
            parse::parse(&api, &caller, read.bytes, request::parse).await?;
        require_permission(&caller, &message)?;
        return plan::respond(&api, &caller, message, read.reservation).await;
    }
    let key = idempotency::key(&headers)?;
    if let Some(key) = key
        && let Some(first) = api.acceptor.first_use(caller.tenant(), caller.key_id(), key).await?
    {
        return replay_if_same(&api, &caller, &first, read.bytes).await;
    }
    let (message, idempotency, rendered) = if let Some(key) = key {
        let parsed = parse::parse(&api, &caller, read.bytes, request::parse_keyed).await?;
        let (message, RequestHashes { fingerprint, digest }) = parsed.value;
        let key = IdempotencyKey { key: key.to_owned(), owner: caller.key_id(), fingerprint, digest };
        (message, Some(key), parsed.rendered)
    } else {
        let parsed = parse::parse(&api, &caller, read.bytes, request::parse).await?;
        (parsed.value, None, parsed.rendered)
    };
    require_permission(&caller, &message)?;
    let (_, mut warnings) = sender::admit(&api, caller.tenant(), message.from.address.domain()).await?;
    if sender::has_no_unsubscribe_link(&message)
        && api.acceptor.has_unsubscribe_links(caller.tenant(), &message.stream).await?
    {
        warnings.push(Warning::needs_one_recipient(&message));
    }
    warnings.extend_from_slice(&message.warnings);
    let mut view = Accepted { warnings, ..Accepted::from_new(&message) };
    let accepted = api.acceptor.accept(caller.tenant(), message, idempotency).await?;
    // Holds the memory of a large body until its attachments are stored.
    drop((read.reservation, rendered));
    match accepted {
        accept::Accepted::New { suppressed } => {
            view.suppress(&suppressed);
            Ok(accepted_response(&view, false))
        }
        accept::Accepted::Replayed(first) => replay(&api, &caller, first).await,
    }
}

/// Fails if the key may not send this message.
fn require_permission(caller: &Caller, message: &NewMessage) -> Result<(), ApiError> {
    caller.require_sender_domain(message.from.address.domain())?;
    if message.ignore_suppression && !caller.has_scope(Scope::Admin) {
        return Err(caller.forbidden_field(Fault {
            pointer: "/ignore_suppression".into(),
            code: Code::Forbidden.as_str(),
            message: "This key lacks the scope `admin`, which `ignore_suppression` requires.".into(),
        }));
    }
    Ok(())
}

/// Returns the response to a request whose `Idempotency-Key` was used before.
async fn replay_if_same(api: &Api, caller: &Caller, first: &KeyUse, body: Vec<u8>) -> Result<Response, ApiError> {
    let is_large = body.len() > parse::LARGE_BODY_BYTES;
    let hashes = parse::process(body, is_large, request::hashes).await?;
    let RequestHashes { fingerprint, digest } = hashes.map_err(|(rejection, _)| rejection)?;
    if first.fingerprint == fingerprint || first.digest.as_deref() == Some(&digest[..]) {
        return replay(api, caller, MessageId(first.message_id)).await;
    }
    Err(ApiError::KeyReused)
}

/// Returns the first response again. Checks the sender, since idempotency keys of earlier versions are valid for the
/// whole tenant.
async fn replay(api: &Api, caller: &Caller, id: MessageId) -> Result<Response, ApiError> {
    let deleted = ApiError::NotFound("The message of this `Idempotency-Key` has been deleted.");
    let row = messages::get(&api.db, caller.tenant(), id).await?.ok_or(deleted)?;
    caller.require_sender_domain(row.from_address.rsplit_once('@').map_or("", |(_, domain)| domain))?;
    let recipients = messages::recipients(&api.db, caller.tenant(), &[id.0], api.clock.now()).await?;
    Ok(accepted_response(&Accepted::from_stored(&row, recipients), true))
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
