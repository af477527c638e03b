//! `POST /emails/batch`. Unlike Resend, Postrider accepts attachments and `scheduled_at` in a batch.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::downloads;
use super::send::{ComputeHashes, SentEmail, TranslatedBody, derive_texts, translate};
use crate::accept::request::RequestHashes;
use crate::accept::request::batch::{self as native, Layout, Validation};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::messages::batch;
use crate::http::request::idempotency;
use crate::http::resend::error;
use crate::http::resend::request::{self, Download, Options};
use crate::http::{Api, ApiError};

/// The header that says what happens if some messages are not valid.
const VALIDATION: &str = "x-batch-validation";

/// The response to a batch.
#[derive(Debug, Serialize)]
pub(in crate::http::resend) struct SentBatch {
    data: Vec<SentEmail>,
    /// With permissive validation: the messages that were not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    errors: Option<Vec<RefusedEmail>>,
}

#[derive(Debug, Serialize)]
struct RefusedEmail {
    index: usize,
    message: String,
}

/// Accepts up to 100 messages.
pub(in crate::http::resend) async fn send(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<SentBatch>, ApiError> {
    caller.require(Scope::Send)?;
    let key = idempotency::key(&headers)?;
    let validation = validation(&headers)?;
    let hashes = key.map(|_| -> ComputeHashes { |json, files| native::hashes(json, &Layout::read(json)?, files) });
    let read = api.bodies.resend(Some(caller.requester()), &headers, body).await?;
    let work = move |body: &[u8], options: &Options| request::batch(body, options, validation);
    let translated = translate(&api, &caller, read, work, hashes).await?;
    let TranslatedBody { mut body, hashes, htmls, downloads, indexes, refused } = translated;
    if indexes.is_empty() {
        check_key(&api, &caller, key, hashes).await?;
        return Ok(Json(SentBatch { data: Vec::new(), errors: Some(errors(Value::Null, &indexes, &refused)) }));
    }
    let caller = if is_repeated(&api, &caller, key, &downloads).await? {
        caller
    } else {
        downloads::add(&api, &caller, &mut body, downloads).await?
    };
    derive_texts(&api, &caller, &mut body, htmls).await?;
    // Boxed, because the future is large.
    let committed = Box::pin(batch::submit(&api, &caller, body, key, hashes)).await?;
    let data = committed.batch.data.iter().map(|entry| SentEmail { id: entry.message.id.0 }).collect();
    let errors = committed.batch.errors.map(|native| errors(native, &indexes, &refused));
    Ok(Json(SentBatch { data, errors }))
}

/// Returns whether the call with this key has been made before, so that its files need not be downloaded again.
async fn is_repeated(api: &Api, caller: &Caller, key: Option<&str>, downloads: &[Download]) -> Result<bool, ApiError> {
    match key {
        Some(key) if !downloads.is_empty() => {
            Ok(api.acceptor.first_call(caller.tenant(), caller.key_id(), key).await?.is_some())
        }
        _ => Ok(false),
    }
}

/// Fails if another request has used the idempotency key of a request that sends nothing. A request that sends nothing
/// does not store its key.
async fn check_key(
    api: &Api,
    caller: &Caller,
    key: Option<&str>,
    hashes: Option<RequestHashes>,
) -> Result<(), ApiError> {
    let Some((key, hashes)) = key.zip(hashes) else { return Ok(()) };
    match api.acceptor.first_call(caller.tenant(), caller.key_id(), key).await? {
        Some(first)
            if first.fingerprint != hashes.fingerprint && first.digest.as_deref() != Some(&hashes.digest[..]) =>
        {
            Err(ApiError::KeyReused)
        }
        _ => Ok(()),
    }
}

fn validation(headers: &HeaderMap) -> Result<Validation, ApiError> {
    match headers.get(VALIDATION).map(|value| value.to_str().unwrap_or_default()) {
        None | Some("strict") => Ok(Validation::Strict),
        Some("permissive") => Ok(Validation::Permissive),
        Some(_) => Err(ApiError::Invalid(vec![Fault {
            pointer: VALIDATION.into(),
            code: Code::InvalidValue.as_str(),
            message: "use `strict` or `permissive`".into(),
        }])),
    }
}

/// A message that `/v1` has refused, as stored in JSON for repeated calls.
#[derive(Debug, Deserialize)]
struct Refused {
    index: usize,
    errors: Vec<RefusedField>,
}

#[derive(Debug, Deserialize)]
struct RefusedField {
    pointer: String,
    code: String,
    message: String,
}

/// Returns the refused messages in the order of the request. `native` lists the messages that `/v1` has refused; it is
/// an array, or null if there are none. `untranslated` lists the messages that could not be translated. `indexes` has
/// the position in the request of each message that was passed to `/v1`.
fn errors(native: Value, indexes: &[usize], untranslated: &[native::Refused]) -> Vec<RefusedEmail> {
    let position = |index: usize| indexes.get(index).copied().unwrap_or(index);
    let native = parse(native).into_iter().map(|refused| view(position(refused.index), &refused));
    let own = parse(json!(untranslated)).into_iter().map(|refused| view(refused.index, &refused));
    let mut all: Vec<RefusedEmail> = native.chain(own).collect();
    all.sort_by_key(|refused| refused.index);
    all
}

fn parse(refused: Value) -> Vec<Refused> {
    serde_json::from_value(refused).unwrap_or_default()
}

fn view(index: usize, refused: &Refused) -> RefusedEmail {
    let prefix = format!("/messages/{}", refused.index);
    let sentence = |field: &RefusedField| {
        let pointer = field.pointer.strip_prefix(&prefix).unwrap_or(&field.pointer);
        error::message(pointer, &field.code, &field.message)
    };
    RefusedEmail { index, message: refused.errors.iter().map(sentence).collect::<Vec<_>>().join(" ") }
}
