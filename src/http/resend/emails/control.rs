//! `PATCH /emails/{id}` and `POST /emails/{id}/cancel`.

use std::borrow::Cow;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Deserialize;
use serde_json::json;

use crate::domain::api::fault::Code;
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::messages::{control, read};
use crate::http::resend::ids::ResendId;
use crate::http::resend::object::Object;
use crate::http::resend::request::{one_fault, read_object, schedule};
use crate::http::resend::times;
use crate::http::{Api, ApiError, ProblemCode};

/// The JSON pointer to the new time.
const AT: &str = "/scheduled_at";

#[derive(Debug, Deserialize)]
struct Change<'a> {
    #[serde(borrow, default)]
    scheduled_at: Option<Cow<'a, str>>,
}

/// Changes the `scheduled_at` of a message that is still scheduled.
pub(in crate::http::resend) async fn reschedule(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<MessageId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Object>, ApiError> {
    caller.require(Scope::Send)?;
    let message = read::load_view(&api, &caller, id).await?;
    let body = api.bodies.json(&headers, body).await?;
    let change: Change<'_> = read_object(&body.bytes)?;
    let given = change.scheduled_at.filter(|text| !text.is_empty());
    let given = given.ok_or_else(|| one_fault(AT, Code::Required, "`scheduled_at` is required"))?;
    let time = schedule::parse(&given, api.clock.now());
    let time = time.ok_or_else(|| one_fault(AT, Code::InvalidTimestamp, schedule::FORMS))?;
    let native = json!({"scheduled_at": times::format(time)}).to_string();
    control::move_to(&api, &caller, &message, native.as_bytes()).await?;
    Ok(Json(Object::new("email", id.0)))
}

/// Cancels the recipients of a message that are not in flight. Fails if it was too late for all of them.
pub(in crate::http::resend) async fn cancel(
    State(api): State<Api>,
    caller: Caller,
    ResendId(id): ResendId<MessageId>,
) -> Result<Json<Object>, ApiError> {
    caller.require(Scope::Send)?;
    let result = control::cancel_recipients(&api, &caller, id).await?;
    if result.canceled.is_empty() && !result.too_late.is_empty() {
        return Err(ApiError::Conflict {
            code: ProblemCode::NotScheduled,
            detail: "This email can no longer be canceled: it is being sent, or has been sent.".into(),
            retry_after: None,
        });
    }
    Ok(Json(Object::new("email", id.0)))
}
