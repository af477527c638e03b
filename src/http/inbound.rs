//! `POST /v1/inbound`: bounces and complaints for those who receive them elsewhere.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::auth::Caller;
use super::params::Params;
use super::{Api, ApiError, Problem, ProblemCode};
use crate::domain::address::Address;
use crate::domain::binary::Binary;
use crate::domain::bounce::{BounceType, Category, Judgement};
use crate::domain::delivery::ReportEffect;
use crate::domain::explain::Said;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::key::Scope;
use crate::domain::outcome::Reply;
use crate::feedback::{Origin, RecipientOutcome, ReportOutcome};

/// What was understood of a mail that came back, and what came of it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct Understood {
    /// `dsn`, `complaint`, `auto_reply` or `unknown`.
    #[schema(example = "dsn")]
    pub kind: String,
    /// The rule by which that was found out.
    #[schema(example = "rfc3464")]
    pub rule: String,
    /// Our message that it is about; null where that is not known.
    #[schema(value_type = Option<String>, example = "msg_01a2b3c4d5e67f8091a2b3c4d5e6f708")]
    pub message_id: Option<MessageId>,
    /// How the message is known: by the return path in the `envelope`, by one in the mail (`reference`), or by our Message-ID
    /// and the recipient's address (`message_id`).
    pub found_by: Option<String>,
    /// Why the message is not known: `no_return_path`, `forged_return_path`, `expired_return_path`, or `no_message` where it
    /// is not stored (any more).
    pub reason: Option<String>,
    /// Whom it speaks of.
    pub recipients: Vec<UnderstoodRecipient>,
    /// Whether anything was changed.
    pub applied: bool,
}

/// What is said of one recipient.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UnderstoodRecipient {
    /// The address, as the report has it.
    pub recipient: String,
    /// Which recipient of the message it is; null where it is none.
    #[schema(value_type = Option<String>)]
    pub recipient_id: Option<RecipientId>,
    /// `failed`, `delayed`, `delivered`, `relayed`, `expanded` or `complained`.
    #[schema(example = "failed")]
    pub action: String,
    /// What the server said.
    pub response: Option<Said>,
    /// What a failure means.
    pub bounce: Option<UnderstoodBounce>,
    /// What that makes of the recipient: `bounced`, `delivered` or `complained`; null where it changes nothing. In a dry run,
    /// what it would make.
    pub effect: Option<String>,
    /// Whether that was done.
    pub applied: bool,
    /// Why nothing changes: `not_a_recipient`, `already_known` (it came before), `still_waiting` (for another attempt, with
    /// an answer of its own), `in_hand` (it is being sent; a report now is too early), `not_sent`, `no_end` (a delay says nothing of the end) or `not_vouched`
    /// (other recipients know the return path too and may have forged it: an event tells of it); `dry_run` where something would.
    pub reason: Option<String>,
}

/// What a failure means, and by which rule.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct UnderstoodBounce {
    /// How final it is.
    #[serde(rename = "type")]
    #[schema(value_type = BounceType, example = "hard")]
    pub kind: String,
    /// Why it was refused.
    #[schema(value_type = Category, example = "unknown_user")]
    pub category: String,
    /// The rule that decided.
    pub rule: String,
}

/// Hand in a bounce or a complaint
///
/// The body is the mail as it was received (MIME). What it says takes effect as if it had come over SMTP: a bounce makes
/// `bounced` of a recipient that was `relayed`, `delivered` or `uncertain`, a note of success makes `delivered` of it, a
/// complaint is an event. The same mail twice changes nothing the second time. With `dry_run=true` nothing changes, and
/// the answer says what was understood, also of mail that was never ours.
#[utoipa::path(
    post, path = "/v1/inbound", tag = "inbound", operation_id = "hand_in",
    params(
        ("dry_run" = Option<bool>, Query, description = "Only explain"),
        ("recipient" = Option<String>, Query, description = "The envelope recipient that the mail came to, where it is known"),
    ),
    request_body(description = "The message as it was received", content(
        (inline(Binary) = "message/rfc822"), (inline(Binary) = "message/global"), (inline(Binary) = "application/octet-stream"))),
    responses(
        (status = 200, description = "What was understood, and what came of it", body = Understood),
        (status = 400, description = "The body ended early", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "Insufficient scope", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body did not arrive in time", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The mail that it is about is still being sent: hand it in again", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The mail is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is no mail", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Invalid parameter", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not now; nothing was changed", body = Problem, content_type = "application/problem+json"),
    ),
    security(("key" = [])),
)]
pub async fn hand_in(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Understood>, ApiError> {
    caller.may(Scope::Admin)?;
    let dry_run = params.read("dry_run", "Give true or false.", |text| text.parse().ok()).unwrap_or(false);
    // The `+` of a return path arrives as a space from those who forget to encode it.
    let address = |text: &str| text.parse::<Address>().or_else(|_| text.replace(' ', "+").parse()).ok();
    let recipient = params.read("recipient", "Give an address.", address);
    params.finish()?;
    let read = api.bodies.mail(Some(caller.key_id()), &headers, body, api.max_inbound).await?;
    let recipient = recipient.map(|address| address.to_string());
    let origin = Origin::Key { tenant: caller.tenant(), to: recipient.as_deref() };
    let taken = api.feedback.take(read.octets, origin, dry_run).await?;
    drop(read.share);
    if taken.is_early() && !dry_run {
        return Err(ApiError::Conflict {
            code: ProblemCode::StillSending,
            detail:
                "The mail that this is about is still being sent. Hand it in again; what was done is not done twice."
                    .into(),
            retry_after: Some(EARLY),
        });
    }
    Ok(Json(understood(taken, dry_run)))
}

/// After so long an attempt that had an answer is on record.
const EARLY: Duration = Duration::from_secs(2);

fn understood(taken: ReportOutcome, dry_run: bool) -> Understood {
    Understood {
        kind: taken.report.kind.as_str().into(),
        rule: taken.report.rule.into(),
        message_id: taken.message.map(|(id, _)| id),
        found_by: taken.message.map(|(_, basis)| basis.as_str().into()),
        reason: taken.lost.map(|why| why.as_str().into()),
        applied: taken.applied() > 0,
        recipients: taken.results.into_iter().map(|fate| recipient(fate, dry_run)).collect(),
    }
}

fn recipient(fate: RecipientOutcome, dry_run: bool) -> UnderstoodRecipient {
    let RecipientOutcome { reported, recipient, word, applied } = fate;
    let (effect, reason) = match word {
        None => (None, Some("not_a_recipient")),
        Some(ReportEffect::Nothing(why)) => (None, Some(why.as_str())),
        Some(ReportEffect::Noted(_)) => (None, Some("not_vouched")),
        Some(ReportEffect::Ends(status)) => (Some(status.as_str()), dry_run.then_some("dry_run")),
        Some(ReportEffect::Complains) => (Some("complained"), dry_run.then_some("dry_run")),
    };
    UnderstoodRecipient {
        recipient: reported.recipient,
        recipient_id: recipient,
        action: reported.action.as_str().into(),
        response: said(&reported.reply),
        bounce: reported.judgement.map(bounce),
        effect: effect.map(str::to_owned),
        applied,
        reason: reason.map(str::to_owned),
    }
}

fn said(reply: &Reply) -> Option<Said> {
    let is_silent = reply.code.is_none() && reply.enhanced.is_none() && reply.text.is_empty();
    (!is_silent).then(|| Said {
        code: reply.code.and_then(|code| i16::try_from(code).ok()),
        enhanced: reply.enhanced.map(|code| code.to_string()),
        text: reply.text.clone(),
    })
}

fn bounce(judgement: Judgement) -> UnderstoodBounce {
    UnderstoodBounce {
        kind: judgement.kind.as_str().into(),
        category: judgement.category.as_str().into(),
        rule: judgement.rule.into(),
    }
}
