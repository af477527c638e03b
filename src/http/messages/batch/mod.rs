//! `POST /v1/messages/batch`.

mod admission;
mod replay;
mod view;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use super::create::run;
use crate::accept::Resolved;
use crate::accept::batch::{BatchAccepted, BatchCall};
use crate::accept::request::batch::{self, Batch, Layout, Refused, Validation};
use crate::accept::request::schema::{BatchForm, BatchRequest};
use crate::accept::request::{Context, RequestHashes};
use crate::db::messages::insert::IdempotencyKey;
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::limits::allowances::settle;
use crate::http::limits::memory_limit::Reservation;
use crate::http::request::form::BodyFormat;
use crate::http::request::idempotency;
use crate::http::request::params::Params;
use crate::http::request::send_body::SendBody;
use crate::http::{Api, ApiError, AuthErrors, JsonErrors};

use view::{AcceptedBatch, ResponseMemory};

/// Send a batch of messages
///
/// Accepts up to 1,000 messages in one request, each with everything that a single message may have. The body is an
/// object with `messages`, or only the array of messages; in a form, it is the part `messages`, and the other parts are
/// files, each of which any number of the messages may attach.
///
/// With `strict` validation, all messages are accepted, or none: if one is not valid, the response is 422 and lists the
/// faults of all messages, with pointers such as `/messages/17/to/0`. With `permissive` validation, the valid messages
/// are accepted, and `errors` lists the others; the response is 202 even if no message is valid. With both, all
/// accepted messages have been committed to the database in one transaction when the response is sent.
///
/// A message may have its own `idempotency_key`, which has the same effect as the header of a single message. Two
/// messages of a request with the same key are accepted as one if they are equal; otherwise the second one is not
/// valid.
#[utoipa::path(
    post, path = "/v1/messages/batch", tag = "messages", operation_id = "send_batch",
    params(
        ("Idempotency-Key" = Option<String>, Header,
         description = "1–256 characters, for the whole request. Repeating a request with the same key returns the first response again, with `Idempotent-Replayed: true`; the order of JSON fields, white space, the form of the body and the names of a form's parts do not matter, the order of the messages does. A request that creates no message does not use its key. Each API key has its own idempotency keys."),
    ),
    request_body(content((BatchRequest = "application/json"), (BatchForm = "multipart/form-data"))),
    responses(
        (status = 202, description = "The accepted messages and, with permissive validation, the refused ones", body = AcceptedBatch),
        AuthErrors, JsonErrors,
        (status = 409, description = "A request with this `Idempotency-Key`, or with the `idempotency_key` of one of these messages, is still in progress"),
        (status = 415, description = "The content type is not `application/json` or `multipart/form-data`"),
        (status = 503, description = "The database is unavailable. The messages may or may not have been accepted; retry the request with the same `Idempotency-Key`"),
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
    let body = SendBody::read(&api, &caller, &headers, body, BodyFormat::batch(&api)).await?;
    let key = idempotency::key(&headers)?;
    // Boxed, because the future is large.
    let Committed { batch, memory, is_replay } = Box::pin(submit(&api, &caller, body, key, None)).await?;
    view::respond(batch, memory, is_replay).await
}

/// The result of a call.
pub(in crate::http) struct Committed {
    pub batch: AcceptedBatch,
    /// The memory of the response.
    memory: ResponseMemory,
    /// Whether the messages were accepted by an earlier call with the same `Idempotency-Key`.
    is_replay: bool,
}

/// Commits the messages of a call. The caller must have the scope `send`. `hashes` identify the call instead of the
/// hashes of its JSON.
pub(in crate::http) async fn submit(
    api: &Api,
    caller: &Caller,
    body: SendBody,
    key: Option<&str>,
    hashes: Option<RequestHashes>,
) -> Result<Committed, ApiError> {
    if let Some(key) = key
        && let Some(first) = api.acceptor.first_call(caller.tenant(), caller.key_id(), key).await?
    {
        return replay::replay_if_same(api, caller, first, body, hashes).await;
    }
    accept(api, caller, body, key, hashes).await
}

/// Returns the error for a dry run of several messages.
pub(super) fn no_dry_run() -> ApiError {
    let message = "A dry run plans one message: send it to POST /v1/messages?dry_run=true.";
    ApiError::Invalid(vec![Fault {
        pointer: "dry_run".into(),
        code: Code::NotAvailable.as_str(),
        message: message.into(),
    }])
}

async fn accept(
    api: &Api,
    caller: &Caller,
    mut body: SendBody,
    key: Option<&str>,
    hashes: Option<RequestHashes>,
) -> Result<Committed, ApiError> {
    let (size, owner) = (body.json.len(), Some(caller.requester()));
    let layout = body.process(|json, _| Layout::read(json)).await??;
    let most = Batch::max_memory(size, layout.count(), api.limits.recipients);
    let memory = api.bodies.reserve_for_batch(owner, most).await?;
    let (mut batch, layout, rendered) = parse(api, caller, body, layout, key.is_some() && hashes.is_none()).await?;
    memory.shrink(batch.memory(size));

    let is_strict = layout.validation == Validation::Strict;
    let key = key.zip(hashes.or(batch.hashes.take()));
    let admitted = admission::admit(api, caller, batch, layout.list()).await?;
    if is_strict && !admitted.refused.is_empty() {
        return Err(refusal(caller, admitted.refused));
    }
    // Before the commit: afterwards, the request must not fail any more.
    let response_memory = ResponseMemory::reserve(api, caller, &admitted).await?;
    let key = key.map(|(key, RequestHashes { fingerprint, digest })| IdempotencyKey {
        key: key.to_owned(),
        owner: caller.key_id(),
        fingerprint,
        digest,
    });
    let (views, call) = admitted.into_call(caller, key, is_strict, layout.list());
    let accepted = commit(api, caller, call).await?;
    drop((memory, rendered));
    match accepted {
        BatchAccepted::Accepted { messages, refused } => {
            let refused = (!is_strict).then_some(refused);
            let data = view::accepted(api, caller, messages, views).await?;
            Ok(Committed { batch: AcceptedBatch::new(data, refused), memory: response_memory, is_replay: false })
        }
        BatchAccepted::Refused(refused) => Err(refusal(caller, refused)),
        BatchAccepted::Replayed(first) => replay::replay(api, caller, first).await,
    }
}

/// Commits the messages of a call. Only the recipients of new messages count towards the quota.
async fn commit(api: &Api, caller: &Caller, call: BatchCall) -> Result<BatchAccepted, ApiError> {
    let ready = match api.acceptor.resolve_batch(call).await? {
        Resolved::Ready(ready) => ready,
        Resolved::Done(accepted) => return Ok(accepted),
    };
    let count = ready.new_recipients();
    let reserved = api.allowances.reserve(caller.key(), count).await?;
    let result = api.acceptor.commit_batch(ready).await;
    let used = match &result {
        Ok(BatchAccepted::Accepted { .. }) => Some(count),
        Err(error) if error.may_be_done() => None,
        Ok(BatchAccepted::Refused(_) | BatchAccepted::Replayed(_)) | Err(_) => Some(0),
    };
    settle(reserved, used);
    Ok(result?)
}

/// Parses the messages of a body, and releases the memory of the body. Also returns the memory reservation for the
/// output of their templates.
async fn parse(
    api: &Api,
    caller: &Caller,
    body: SendBody,
    mut layout: Layout,
    is_keyed: bool,
) -> Result<(Batch, Layout, Option<Reservation>), ApiError> {
    let streams = api.acceptor.streams(caller.tenant()).await?;
    let now = api.clock.now();
    let SendBody { mut json, mut references, reservation: _body_memory, .. } = body;
    let (size, count) = (json.len(), layout.count());
    loop {
        let (streams, limits, is_expensive) = (streams.clone(), api.limits.clone(), references.is_expensive());
        let work = move || {
            let context = references.context(Context::new(now, &limits, &streams));
            let parsed = batch::parse(&json, &layout, &context, is_keyed);
            Ok((parsed, json, layout, references))
        };
        let parsed;
        (parsed, json, layout, references) = run(size, is_expensive, work).await?;
        match parsed {
            Ok(batch) => return Ok((batch, layout, references.finish(api, caller).await?)),
            Err(rejection) => references.look_up(api, caller, rejection, count).await?,
        }
    }
}

/// Returns the error of a strict call with refused messages: 403 if the only faults are that the key does not allow the
/// messages.
fn refusal(caller: &Caller, refused: Vec<Refused>) -> ApiError {
    let faults = batch::all_faults(Vec::new(), refused);
    if faults.iter().all(|fault| fault.code == Code::Forbidden.as_str()) {
        caller.forbidden_fields(faults)
    } else {
        ApiError::Invalid(faults)
    }
}
