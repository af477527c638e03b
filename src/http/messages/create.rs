//! `POST /v1/messages`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::plan::{self, Plan};
use super::sender::{self, Warning};
use super::view::Accepted;
use crate::accept::request::schema::SendRequest;
use crate::accept::request::{self, Context};
use crate::accept::{self, Idempotency};
use crate::db::messages;
use crate::domain::fault::{Code, Fault};
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::Scope;
use crate::domain::message::NewMessage;
use crate::http::auth::Caller;
use crate::http::params::Params;
use crate::http::{Api, ApiError, Problem, idempotency};

/// Bodies over this many octets are parsed off the async threads: a millisecond a megabyte.
const LARGE: usize = 256 << 10;
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Send a message
///
/// Answers 202 after the message has been committed to the database, never before. Delivery goes on in the background;
/// `GET /v1/messages/{id}` tells how far it is. A recipient on the suppression list gets nothing and is `suppressed` from the
/// start; so is the message where all of them are. That is no error: the message is kept and can be explained.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", operation_id = "send_message",
    params(
        ("Idempotency-Key" = Option<String>, Header,
         description = "1–256 characters. The same key and body get the first answer again, with `Idempotent-Replayed: true`. Ignored in a dry run."),
        ("dry_run" = Option<bool>, Query,
         description = "With `true` nothing is stored or sent: the answer is 200 with the plan. What is not valid is refused as ever. How many mails wait before it, what destinations replied and why operators paused something is told only to keys with the scope `read`."),
    ),
    request_body = SendRequest,
    responses(
        (status = 200, description = "A dry run: what would become of the message", body = Plan),
        (status = 202, description = "The message is committed and will be delivered", body = Accepted,
         headers(("Location" = String, description = "Where the message's status is"))),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key, or none that works", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key does not allow it", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "A request with this Idempotency-Key is being worked on", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The message is not valid: every fault at once", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer. The message may or may not have been accepted: repeat the request with the same Idempotency-Key", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn create(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    caller.may(Scope::Send)?;
    let dry_run = params.read("dry_run", "Give `true` or `false`.", |word| word.parse::<bool>().ok());
    params.finish()?;
    let read = api.bodies.message(Some(caller.key_id()), &headers, body).await?;
    if dry_run == Some(true) {
        let message = parse(&api, caller.tenant(), read.octets).await?;
        admit(&caller, &message)?;
        return plan::of(&api, &caller, message, read.share).await;
    }
    let idempotency = idempotency::of(&headers, &read.octets)?;
    if let Some(first) = replayed(&api, caller.tenant(), idempotency.as_ref()).await? {
        return replay(&api, caller.tenant(), first).await;
    }
    let message = parse(&api, caller.tenant(), read.octets).await?;
    admit(&caller, &message)?;
    let (_, mut warnings) = sender::admit(&api, caller.tenant(), message.from.address.domain()).await?;
    if sender::lacks_a_link(&message) && api.acceptor.asks_for_links(caller.tenant(), &message.stream).await? {
        warnings.push(Warning::needs_one_recipient(&message));
    }
    let mut answer = Accepted { warnings, ..Accepted::of_new(&message) };
    let accepted = api.acceptor.accept(caller.tenant(), message, idempotency).await?;
    // The memory of a large body is ours until its attachments are stored.
    drop(read.share);
    match accepted {
        accept::Accepted::New { suppressed } => {
            answer.suppress(&suppressed);
            Ok(accepted_response(&answer, false))
        }
        accept::Accepted::Replayed(first) => replay(&api, caller.tenant(), first).await,
    }
}

/// Refuses what this key may not send.
fn admit(caller: &Caller, message: &NewMessage) -> Result<(), ApiError> {
    caller.may_send_from(message.from.address.domain())?;
    if message.ignore_suppression && caller.may(Scope::Admin).is_err() {
        return Err(ApiError::ForbiddenField(Fault {
            pointer: "/ignore_suppression".into(),
            code: Code::Forbidden.as_str(),
            message: "This key does not have the scope `admin`, which `ignore_suppression` needs.".into(),
        }));
    }
    Ok(())
}

async fn replayed(
    api: &Api,
    tenant: TenantId,
    idempotency: Option<&Idempotency>,
) -> Result<Option<MessageId>, ApiError> {
    match idempotency {
        Some(with) => Ok(api.acceptor.replayed(tenant, with).await?),
        None => Ok(None),
    }
}

/// Validates the body, and lets go of it.
async fn parse(api: &Api, tenant: TenantId, body: Vec<u8>) -> Result<NewMessage, ApiError> {
    let streams: Arc<[String]> = api.acceptor.streams(tenant).await?;
    let now = api.clock.now();
    let limits = api.limits.clone();
    let is_large = body.len() > LARGE;
    let work = move || request::parse(&body, &Context { now, limits: &limits, streams: &streams });
    if is_large {
        return Ok(tokio::task::spawn_blocking(work).await.map_err(|_| ApiError::Internal)??);
    }
    Ok(work()?)
}

async fn replay(api: &Api, tenant: TenantId, id: MessageId) -> Result<Response, ApiError> {
    let gone = ApiError::NotFound("The message of this Idempotency-Key is no longer kept.");
    let row = messages::get(&api.db, tenant, id).await?.ok_or(gone)?;
    let recipients = messages::recipients(&api.db, tenant, &[id.0], api.clock.now()).await?;
    Ok(accepted_response(&Accepted::of_stored(&row, recipients), true))
}

fn accepted_response(answer: &Accepted, replayed: bool) -> Response {
    let location = HeaderValue::try_from(format!("/v1/messages/{}", answer.id));
    let mut response = (StatusCode::ACCEPTED, Json(answer)).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
