//! `POST /v1/inbound`: accepts bounces and complaints that were received by another mail server.

use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::auth::Reporter;
use super::request::params::Params;
use super::{Api, ApiError, AuthErrors, InvalidParameter, ProblemCode};
use crate::domain::address::Address;
use crate::domain::api::binary::Binary;
use crate::domain::bounce::{BounceType, Category, Judgement};
use crate::domain::delivery::ReportEffect;
use crate::domain::explain::SmtpReply;
use crate::domain::id::{MessageId, RecipientId};
use crate::domain::key::Scope;
use crate::domain::outcome::Reply;
use crate::feedback::{Origin, RecipientOutcome, ReportOutcome};

/// The interpretation of an inbound report, and its effect.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct InboundReport {
    /// The kind of report: `dsn`, `complaint`, `auto_reply` or `unknown`.
    #[schema(example = "dsn")]
    pub kind: String,
    /// The rule that determined the kind.
    #[schema(example = "rfc3464")]
    pub rule: String,
    /// The message that the report is about; null if unknown.
    #[schema(value_type = Option<String>, example = "msg_01a2b3c4d5e67f8091a2b3c4d5e6f708")]
    pub message_id: Option<MessageId>,
    /// How the message was identified: by the report's envelope recipient (`envelope`), by a return path in the report
    /// (`reference`), or by the Message-ID and the recipient's address (`message_id`); null if it was not.
    #[schema(example = "envelope")]
    pub found_by: Option<String>,
    /// Why the message is unknown: `no_return_path`, `forged_return_path`, `expired_return_path`, or `no_message` if it
    /// is not stored, or no longer stored. Null if the message is known.
    #[schema(example = "no_return_path")]
    pub reason: Option<String>,
    /// The recipients that the report is about, with the effect on each.
    pub recipients: Vec<ReportRecipient>,
    /// Whether the report changed anything.
    #[schema(example = true)]
    pub applied: bool,
}

/// The interpretation of a report for one recipient.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReportRecipient {
    /// The address as given in the report.
    #[schema(example = "ann@example.test")]
    pub recipient: String,
    /// The id of the message's recipient with this address; null if there is none.
    #[schema(value_type = Option<String>, example = "rcp_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub recipient_id: Option<RecipientId>,
    /// The action in the report: `failed`, `delayed`, `delivered`, `relayed`, `expanded` or `complained`.
    #[schema(example = "failed")]
    pub action: String,
    /// The SMTP reply quoted in the report; null if there is none.
    pub response: Option<SmtpReply>,
    /// The classification of a failure; null for other actions.
    pub bounce: Option<ReportBounce>,
    /// The effect on the recipient: `bounced`, `delivered` or `complained`; null if there is none. In a dry run, the
    /// effect that the report would have.
    #[schema(example = "bounced")]
    pub effect: Option<String>,
    /// Whether the effect was applied.
    #[schema(example = true)]
    pub applied: bool,
    /// Why nothing changed: `not_a_recipient`, `already_known` (reported before), `still_queued` (the recipient waits
    /// for another attempt, whose reply counts), `in_flight` (an attempt is in progress; the report is too early),
    /// `not_sent` (no message was sent to the recipient), `not_final` (the action is not final), `not_vouched` (other
    /// recipients know the return path too and may have forged the report; only an event is recorded), or `dry_run` if
    /// it would have changed something. Null if something changed.
    #[schema(example = "already_known")]
    pub reason: Option<String>,
}

/// The classification of a failure, and the rule that determined it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct ReportBounce {
    /// The bounce type.
    #[serde(rename = "type")]
    #[schema(value_type = BounceType, example = "hard")]
    pub kind: String,
    /// The category of the failure.
    #[schema(value_type = Category, example = "unknown_user")]
    pub category: String,
    /// The rule that determined the classification.
    #[schema(example = "exim-unknown")]
    pub rule: String,
}

/// Submit a bounce or complaint
///
/// The body is the report as received (MIME). It has the same effect as if it had been received over SMTP: a bounce
/// changes a recipient from `relayed`, `delivered` or `uncertain` to `bounced`, a success report changes it to
/// `delivered`, and a complaint adds an event. Submitting the same report again has no effect. With `dry_run=true`
/// nothing changes; the response is the interpretation, even if the report is about a message that Postrider did not
/// send. Keys of suspended tenants may call it too.
#[utoipa::path(
    post, path = "/v1/inbound", tag = "inbound", operation_id = "submit_report",
    params(
        ("dry_run" = Option<bool>, Query, description = "`true`: return the interpretation without applying it"),
        ("recipient" = Option<String>, Query, description = "The envelope recipient of the report, if known"),
    ),
    request_body(description = "The report as received (MIME)", content(
        (inline(Binary) = "message/rfc822"), (inline(Binary) = "message/global"), (inline(Binary) = "application/octet-stream"))),
    responses(
        (status = 200, description = "The interpretation and its effect", body = InboundReport),
        AuthErrors, InvalidParameter,
        (status = 400, description = "The request body ended early"),
        (status = 408, description = "The request body did not arrive in time"),
        (status = 409, description = "The message is still being sent; submit the report again"),
        (status = 413, description = "Request body too large"),
        (status = 415, description = "The content type is not a MIME message"),
        (status = 503, description = "Temporarily unavailable; nothing was changed"),
    ),
)]
pub async fn submit(
    State(api): State<Api>,
    Reporter(caller): Reporter,
    mut params: Params,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<InboundReport>, ApiError> {
    caller.require(Scope::Admin)?;
    let dry_run = params.read("dry_run", "Pass `true` or `false`.", |text| text.parse().ok()).unwrap_or(false);
    // A `+` in a return path arrives as a space if the client does not encode it.
    let address = |text: &str| text.parse::<Address>().or_else(|_| text.replace(' ', "+").parse()).ok();
    let recipient = params.read("recipient", "Pass an email address.", address);
    params.finish()?;
    let read = api.bodies.mime(Some(caller.requester()), &headers, body, api.max_inbound).await?;
    let recipient = recipient.map(|address| address.to_string());
    let origin = Origin::Key { tenant: caller.tenant(), to: recipient.as_deref() };
    let outcome = api.feedback.process(read.bytes, origin, dry_run).await?;
    drop(read.reservation);
    if outcome.is_early() && !dry_run {
        return Err(ApiError::Conflict {
            code: ProblemCode::StillSending,
            detail: "The message of this report is still being sent. Submit the report again after `Retry-After`."
                .into(),
            retry_after: Some(RETRY_EARLY_REPORT),
        });
    }
    Ok(Json(report_view(outcome, dry_run)))
}

/// `Retry-After` for a report about an attempt in progress: by then, the outcome is usually recorded.
const RETRY_EARLY_REPORT: Duration = Duration::from_secs(2);

fn report_view(outcome: ReportOutcome, dry_run: bool) -> InboundReport {
    InboundReport {
        kind: outcome.report.kind.as_str().into(),
        rule: outcome.report.rule.into(),
        message_id: outcome.message.map(|(id, _)| id),
        found_by: outcome.message.map(|(_, basis)| basis.as_str().into()),
        reason: outcome.not_found.map(|why| why.as_str().into()),
        applied: outcome.applied() > 0,
        recipients: outcome.results.into_iter().map(|result| recipient(result, dry_run)).collect(),
    }
}

fn recipient(result: RecipientOutcome, dry_run: bool) -> ReportRecipient {
    let RecipientOutcome { reported, recipient, effect, applied } = result;
    let (effect, reason) = match effect {
        None => (None, Some("not_a_recipient")),
        Some(ReportEffect::Nothing(why)) => (None, Some(why.as_str())),
        Some(ReportEffect::Noted(_)) => (None, Some("not_vouched")),
        Some(ReportEffect::Ends(status)) => (Some(status.as_str()), dry_run.then_some("dry_run")),
        Some(ReportEffect::Complains) => (Some("complained"), dry_run.then_some("dry_run")),
    };
    ReportRecipient {
        recipient: reported.recipient,
        recipient_id: recipient,
        action: reported.action.as_str().into(),
        response: reply_view(&reported.reply),
        bounce: reported.judgement.map(bounce),
        effect: effect.map(str::to_owned),
        applied,
        reason: reason.map(str::to_owned),
    }
}

fn reply_view(reply: &Reply) -> Option<SmtpReply> {
    let is_silent = reply.code.is_none() && reply.enhanced.is_none() && reply.text.is_empty();
    (!is_silent).then(|| SmtpReply {
        code: reply.code.and_then(|code| i16::try_from(code).ok()),
        enhanced: reply.enhanced.map(|code| code.to_string()),
        text: reply.text.clone(),
    })
}

fn bounce(judgement: Judgement) -> ReportBounce {
    ReportBounce {
        kind: judgement.kind.as_str().into(),
        category: judgement.category.as_str().into(),
        rule: judgement.rule.into(),
    }
}
