//! Messages that were sent from SQL and are not accepted yet, or were rejected (`db::messages::sql_inbox`):
//! `GET /v1/messages/rejected`, and the error of calls for such a message.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::db::messages::sql_inbox::rejected::{self, RejectedRow, StateRow};
use crate::domain::api::fault::Fault;
use crate::domain::api::problem::ProblemCode;
use crate::domain::id::MessageId;
use crate::domain::key::Scope;
use crate::http::auth::Caller;
use crate::http::page::{Page, PageParams};
use crate::http::request::params::Params;
use crate::http::{Api, ApiError, AuthErrors, InvalidParameter};

/// After this time, a message that waits only for a process has usually been accepted.
const SOON: Duration = Duration::from_secs(1);

/// A message that was sent from SQL and rejected.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct RejectedMessage {
    /// The id that `postrider.send` returned.
    #[schema(value_type = String, example = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: MessageId,
    /// When the application called the function.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the message was rejected.
    #[schema(example = "2026-11-23T12:00:01Z")]
    pub rejected_at: DateTime<Utc>,
    /// The role of the database server that sent it.
    #[schema(example = "shop")]
    pub role: String,
    /// The message's stream.
    #[schema(example = "transactional")]
    pub stream: String,
    /// The sender's address; null if the template has it.
    #[schema(example = "orders@acme.test")]
    pub from: Option<String>,
    /// The subject; null if the template has it.
    #[schema(example = "Your order 42")]
    pub subject: Option<String>,
    /// The metadata, as given.
    #[schema(value_type = crate::domain::api::open_object::MessageMetadata, example = json!({"order": "42"}))]
    pub metadata: Value,
    /// Why the message was rejected.
    #[schema(value_type = Vec<Fault>)]
    pub errors: Value,
}

impl From<RejectedRow> for RejectedMessage {
    fn from(row: RejectedRow) -> Self {
        Self {
            id: MessageId(row.id),
            created_at: row.created_at,
            rejected_at: row.refused_at,
            role: row.role,
            stream: row.stream,
            from: row.from_address,
            subject: row.subject,
            metadata: row.metadata,
            errors: row.errors,
        }
    }
}

/// List rejected messages
///
/// Returns messages that an application sent from SQL and that could not be accepted, newest first. Nothing was sent. Each has
/// the event `message.rejected`.
#[utoipa::path(
    get, path = "/v1/messages/rejected", tag = "messages", operation_id = "list_rejected_messages",
    params(PageParams),
    responses(
        (status = 200, description = "A page of rejected messages", body = Page<RejectedMessage>),
        AuthErrors, InvalidParameter,
    ),
)]
pub async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<Page<RejectedMessage>>, ApiError> {
    caller.require(Scope::Metadata)?;
    let limit = params.limit();
    let after = params.read("after", "Pass the `next` value of the previous page.", |text| text.parse().ok());
    params.finish()?;
    let rows = rejected::page(&api.db, caller.tenant(), caller.sender_domains(), after, limit + 1).await?;
    let cursor = |row: &RejectedRow| MessageId(row.id).to_string();
    Ok(Json(Page::new(rows, limit, cursor, RejectedMessage::from)))
}

/// Returns the error for a message that was sent from SQL and is not accepted; `None` if there is none for the caller.
pub(in crate::http::messages) async fn find(
    api: &Api,
    caller: &Caller,
    id: MessageId,
) -> Result<Option<ApiError>, ApiError> {
    let Some(row) = rejected::state(&api.db, caller.tenant(), id).await? else { return Ok(None) };
    let from = row.from_address.as_deref().unwrap_or_default().to_ascii_lowercase();
    Ok(caller.can_see(&from).then(|| error(&row)))
}

fn error(row: &StateRow) -> ApiError {
    let (code, detail) = if row.refused_at.is_some() {
        (ProblemCode::MessageRejected, format!("This message was sent from SQL and rejected: {}.", faults(row)))
    } else {
        (ProblemCode::NotAccepted, format!("This message was sent from SQL and is not accepted yet: {}.", reason(row)))
    };
    // What waits for a quota or for its tenant may wait for long.
    let is_soon = row.refused_at.is_none() && row.waits_for.is_none() && !row.is_suspended;
    ApiError::Conflict { code, detail, retry_after: is_soon.then_some(SOON) }
}

/// Returns the faults of a rejected message as a text.
fn faults(row: &StateRow) -> String {
    let text = |fault: &Value| match (fault["pointer"].as_str(), fault["message"].as_str()) {
        (None | Some(""), message) => message.unwrap_or("unknown").to_owned(),
        (Some(pointer), message) => format!("{pointer} {}", message.unwrap_or("is not valid")),
    };
    row.errors.as_ref().and_then(Value::as_array).into_iter().flatten().map(text).collect::<Vec<_>>().join("; ")
}

/// Returns what a message waits for.
fn reason(row: &StateRow) -> String {
    match (row.recipients, row.recipients_per_day) {
        _ if row.is_suspended => "the tenant is suspended; it waits until the tenant is resumed".to_owned(),
        (Some(needed), Some(limit)) if needed > limit => format!(
            "it has {needed} recipients, and the tenant's quota is {limit} recipients a day; it is rejected unless the quota is raised"
        ),
        _ if row.waits_for.as_deref() == Some("quota") => {
            "the tenant's quota of this day does not suffice for it; it waits until it does".to_owned()
        }
        _ => "a process with the API accepts it within about a second, if one runs and the restore guard does not hold"
            .to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> StateRow {
        StateRow {
            from_address: None,
            waits_for: None,
            recipients: None,
            recipients_per_day: None,
            is_suspended: false,
            refused_at: None,
            errors: None,
        }
    }

    #[test]
    fn reason_names_what_the_message_waits_for() {
        let quota =
            StateRow { waits_for: Some("quota".into()), recipients: Some(3), recipients_per_day: Some(5), ..row() };
        assert!(reason(&row()).starts_with("a process with the API"));
        assert!(reason(&quota).starts_with("the tenant's quota of this day"));
        assert!(reason(&StateRow { recipients_per_day: Some(2), ..quota.clone() }).starts_with("it has 3 recipients"));
        assert!(reason(&StateRow { is_suspended: true, ..quota }).starts_with("the tenant is suspended"));
    }

    #[test]
    fn error_of_a_rejected_message_has_its_faults() {
        let errors =
            json!([{"pointer": "/from", "message": "is required"}, {"pointer": "", "message": "it was too late"}]);
        let rejected = StateRow { refused_at: Some(DateTime::UNIX_EPOCH), errors: Some(errors), ..row() };
        assert_eq!(faults(&rejected), "/from is required; it was too late");
        assert!(matches!(error(&rejected), ApiError::Conflict { code: ProblemCode::MessageRejected, .. }));
    }
}
