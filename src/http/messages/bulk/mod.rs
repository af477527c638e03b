//! `POST /v1/messages/bulk`, and `/v1/bulks`.

pub mod control;
pub mod read;
mod view;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;

use super::batch::no_dry_run;
use super::create::{IGNORES_SUPPRESSION, REPLAYED, run};
use super::sender;
use crate::accept::Resolved;
use crate::accept::bulk::{BulkAccepted, BulkCall};
use crate::accept::request::bulk::{self, Bulk, Layout};
use crate::accept::request::schema::{BulkForm, BulkRequest};
use crate::accept::request::{Context, RequestHashes};
use crate::db::messages::bulks;
use crate::db::messages::idempotency::CallUse;
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::BulkId;
use crate::domain::key::Scope;
use crate::domain::message::Warning;
use crate::http::auth::Caller;
use crate::http::limits::allowances::settle;
use crate::http::limits::memory_limit::Reservation;
use crate::http::located::with_location;
use crate::http::request::form::BodyFormat;
use crate::http::request::idempotency;
use crate::http::request::params::Params;
use crate::http::request::send_body::SendBody;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};

use view::AcceptedBulk;

/// Send a bulk
///
/// Accepts one message for up to 10,000 recipients. Each recipient becomes a message of its own, with its own id, status,
/// events and unsubscribe link, and sees only its own address in `To`. The content and the attachments are stored once; a
/// template is rendered for each recipient with its own `variables`, which are checked now. In a form, the JSON is the part
/// `message`, and the other parts are files to attach.
///
/// The valid recipients are accepted, and `errors` lists the others; if no recipient is valid, the response is 422. All
/// accepted recipients have been committed to the database when the response is sent. They become messages within moments:
/// `GET /v1/bulks/{id}` returns their number by status, and `GET /v1/messages?bulk={id}` lists them.
///
/// A recipient may have its own `idempotency_key`: a later bulk with the same message and the same recipient then does not
/// send to it again, and counts it as `replayed`.
#[utoipa::path(
    post, path = "/v1/messages/bulk", tag = "bulks", operation_id = "send_bulk",
    params(
        ("Idempotency-Key" = Option<String>, Header,
         description = "1–256 characters, for the whole request. Repeating a request with the same key returns the first response again, with `Idempotent-Replayed: true`; the order of JSON fields, white space and the names of a form's parts do not matter, the order of the recipients does. Each API key has its own idempotency keys."),
    ),
    request_body(content((BulkRequest = "application/json"), (BulkForm = "multipart/form-data"))),
    responses(
        (status = 202, description = "The accepted bulk and the refused recipients", body = AcceptedBulk,
         headers(("Location" = String, description = "The path of the bulk"))),
        AuthErrors, JsonErrors,
        (status = 409, description = "A request with this `Idempotency-Key`, or with the `idempotency_key` of one of the recipients, is still in progress"),
        (status = 415, description = "The content type is not `application/json` or `multipart/form-data`"),
        (status = 503, description = "The database is unavailable. The bulk may or may not have been accepted; retry the request with the same `Idempotency-Key`"),
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
    let dry_run = params.read("dry_run", "Leave it out.", |text| text.parse::<bool>().ok());
    params.finish()?;
    if dry_run == Some(true) {
        return Err(no_dry_run());
    }
    let body = SendBody::read(&api, &caller, &headers, body, BodyFormat::bulk(&api)).await?;
    let key = idempotency::key(&headers)?;
    if let Some(key) = key
        && let Some(first) = api.acceptor.first_call(caller.tenant(), caller.key_id(), key).await?
    {
        return replay_if_same(&api, &caller, &first, body).await;
    }
    // Boxed, because the future is large.
    Box::pin(accept(&api, &caller, body, key)).await
}

async fn accept(api: &Api, caller: &Caller, mut body: SendBody, key: Option<&str>) -> Result<Response, ApiError> {
    let (size, owner) = (body.json.len(), Some(caller.requester()));
    let layout = body.process(|json, _| Layout::read(json)).await??;
    let memory = api.bodies.reserve_for_batch(owner, Bulk::memory(size, layout.count())).await?;
    let (mut bulk, rendered) = parse(api, caller, body, layout, key.is_some()).await?;
    let mut warnings = admit(api, caller, &bulk).await?;
    warnings.append(&mut bulk.warnings);
    let key = key.zip(bulk.hashes.take()).map(|(key, RequestHashes { fingerprint, digest })| IdempotencyKey {
        key: key.to_owned(),
        owner: caller.key_id(),
        fingerprint,
        digest,
    });
    let call = BulkCall { tenant: caller.tenant(), owner: caller.key_id(), key, now: api.clock.now(), bulk };
    let accepted = commit(api, caller, call).await?;
    drop((memory, rendered));
    match accepted {
        BulkAccepted::New { id, accepted, replayed, refused } => {
            let rejected = refused.as_array().map_or(0, Vec::len);
            Ok(respond(AcceptedBulk { id, accepted, rejected, replayed, errors: refused, warnings }, false))
        }
        BulkAccepted::Replayed(id) => replay(api, caller, id).await,
    }
}

/// Commits a bulk. Only the recipients that become messages count towards the quota.
async fn commit(api: &Api, caller: &Caller, call: BulkCall) -> Result<BulkAccepted, ApiError> {
    let ready = match api.acceptor.resolve_bulk(call).await? {
        Resolved::Ready(ready) => ready,
        Resolved::Done(accepted) => return Ok(accepted),
    };
    let count = ready.new_recipients();
    let reserved = api.allowances.reserve(caller.key(), count).await?;
    let result = api.acceptor.commit_bulk(ready).await;
    let used = match &result {
        Ok(BulkAccepted::New { .. }) => Some(count),
        Err(error) if error.may_be_done() => None,
        Ok(BulkAccepted::Replayed(_)) | Err(_) => Some(0),
    };
    settle(reserved, used);
    Ok(result?)
}

/// Parses a body, and frees its memory. Also returns the memory reservation for what its template has rendered.
async fn parse(
    api: &Api,
    caller: &Caller,
    body: SendBody,
    mut layout: Layout,
    is_keyed: bool,
) -> Result<(Bulk, Option<Reservation>), ApiError> {
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let now = api.clock.now();
    let SendBody { mut json, mut references, reservation: _body_memory, .. } = body;
    let (size, count) = (json.len(), layout.count());
    let is_large = count > MAX_INLINE_RECIPIENTS;
    loop {
        let (streams, limits) = (streams.clone(), api.limits.clone());
        let is_expensive = is_large || references.is_expensive();
        let work = move || {
            let context = references.context(Context::new(now, &limits, &streams));
            let parsed = bulk::parse(&json, &layout, &context, is_keyed);
            Ok((parsed, json, layout, references))
        };
        let parsed;
        (parsed, json, layout, references) = run(size, is_expensive, work).await?;
        match parsed {
            Ok(bulk) => return Ok((bulk, references.finish(api, caller).await?)),
            Err(rejection) => references.look_up(api, caller, rejection, count).await?,
        }
    }
}

/// Calls with more recipients are parsed on a blocking thread: checking the variables takes some microseconds per
/// recipient.
const MAX_INLINE_RECIPIENTS: usize = 100;

/// Fails if the key may not send this bulk. Returns warnings about the sender.
async fn admit(api: &Api, caller: &Caller, bulk: &Bulk) -> Result<Vec<Warning>, ApiError> {
    let domain = bulk.from_domain.as_deref().unwrap_or_default();
    caller.require_sender_domain(domain)?;
    if bulk.message.ignore_suppression && !caller.has_scope(Scope::Admin) {
        return Err(caller.forbidden_fields(vec![Fault {
            pointer: "/ignore_suppression".into(),
            code: Code::Forbidden.as_str(),
            message: IGNORES_SUPPRESSION.into(),
        }]));
    }
    Ok(sender::admit(api, caller.tenant(), domain).await?.1)
}

/// Returns the first response again if the body is that of the first call.
async fn replay_if_same(api: &Api, caller: &Caller, first: &CallUse, mut body: SendBody) -> Result<Response, ApiError> {
    let hashes = body.hashes(|json, files| bulk::hashes(json, &Layout::read(json)?, files)).await?;
    match first.bulk_id {
        Some(id) if first.is_same_request(&hashes.fingerprint, &hashes.digest) => replay(api, caller, BulkId(id)).await,
        _ => Err(ApiError::KeyReused),
    }
}

async fn replay(api: &Api, caller: &Caller, id: BulkId) -> Result<Response, ApiError> {
    let deleted = ApiError::NotFound("The bulk of this `Idempotency-Key` has been deleted.");
    let row = bulks::get(&api.db, caller.tenant(), id).await?.ok_or(deleted)?;
    caller.require_sender_domain(&row.from_domain)?;
    let refused = bulks::refused(&api.db, &row).await?;
    Ok(respond(AcceptedBulk::from_row(&row, refused), true))
}

fn respond(accepted: AcceptedBulk, is_replayed: bool) -> Response {
    let path = format!("/v1/bulks/{}", accepted.id);
    let mut response = with_location(path, (StatusCode::ACCEPTED, Json(accepted)));
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    response
}
