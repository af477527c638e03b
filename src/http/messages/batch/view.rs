//! The response to a call.

use std::collections::HashMap;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::admission::{Admitted, Views};
use crate::accept::batch::BatchItem;
use crate::accept::request::batch::Refused;
use crate::db::messages::{self, RecipientRow};
use crate::domain::delivery::Status;
use crate::domain::id::MessageId;
use crate::http::auth::Caller;
use crate::http::limits::memory_limit::Reservation;
use crate::http::messages::create::REPLAYED;
use crate::http::messages::read::view::Accepted;
use crate::http::request::body::SMALL_BODY_BYTES;
use crate::http::request::send_body::LARGE_BODY_BYTES;
use crate::http::{Api, ApiError, response};

/// The response to an accepted batch.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct AcceptedBatch {
    /// The accepted messages, in the order of the request.
    pub data: Vec<BatchEntry>,
    /// With permissive validation: the messages that were not accepted, in the order of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Refused>>, nullable = false)]
    pub errors: Option<Value>,
}

/// An accepted message of a batch.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = AcceptedBatchMessage)]
pub struct BatchEntry {
    /// The message's position in the request, from 0.
    #[schema(example = 0)]
    pub index: usize,
    /// The response to the same message in a request of its own.
    #[serde(flatten)]
    pub message: Accepted,
    /// `true` if this message was accepted before: by an earlier request with its `idempotency_key`, or at an earlier
    /// position of this request. Omitted otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(example = true)]
    pub replayed: bool,
}

impl AcceptedBatch {
    pub(super) fn new(data: Vec<BatchEntry>, refused: Option<Vec<Refused>>) -> Self {
        Self { data, errors: refused.map(|refused| json!(refused)) }
    }
}

/// Returns the entries of accepted messages. `views` contains the responses to the new messages, by position.
pub(super) async fn accepted(
    api: &Api,
    caller: &Caller,
    messages: Vec<(usize, BatchItem)>,
    mut views: Views,
) -> Result<Vec<BatchEntry>, ApiError> {
    let earlier = messages.iter().filter_map(|(_, item)| match item {
        BatchItem::Replayed(id) => Some(id.0),
        BatchItem::New { .. } | BatchItem::SameAs(_) => None,
    });
    let stored = stored(api, caller, &earlier.collect::<Vec<_>>()).await?;
    let mut data: Vec<BatchEntry> = Vec::with_capacity(messages.len());
    for (index, item) in messages {
        let replayed = !matches!(item, BatchItem::New { .. });
        let message = match item {
            BatchItem::New { suppressed } => views.remove(&index).map(|mut view| {
                view.suppress(&suppressed);
                view
            }),
            BatchItem::Replayed(id) => Some(stored.get(&id.0).cloned().unwrap_or_else(|| deleted(id))),
            BatchItem::SameAs(first) => {
                let at = data.binary_search_by_key(&first, |entry| entry.index).ok();
                at.map(|at| data[at].message.clone())
            }
        };
        data.extend(message.map(|message| BatchEntry { index, message, replayed }));
    }
    Ok(data)
}

/// Returns the responses with which stored messages were accepted, by message id. Leaves out messages that have been
/// deleted.
pub(super) async fn stored(api: &Api, caller: &Caller, ids: &[Uuid]) -> Result<HashMap<Uuid, Accepted>, ApiError> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = messages::get_all(&api.db, caller.tenant(), ids).await?;
    let mut recipients = HashMap::<Uuid, Vec<RecipientRow>>::new();
    for row in messages::recipients(&api.db, caller.tenant(), ids, api.clock.now()).await? {
        recipients.entry(row.message_id).or_default().push(row);
    }
    let view = |row: messages::MessageRow| {
        let recipients = recipients.remove(&row.id).unwrap_or_default();
        (row.id, Accepted::from_stored(&row, recipients))
    };
    Ok(rows.into_iter().map(view).collect())
}

/// Returns what is known of a message that was accepted earlier and has been deleted.
fn deleted(id: MessageId) -> Accepted {
    Accepted {
        id,
        message_id: String::new(),
        status: Status::Queued,
        created_at: id.accepted_at(),
        recipients: Vec::new(),
        warnings: Vec::new(),
    }
}

/// Memory for a response, reserved before the response is built.
pub(super) struct ResponseMemory {
    bytes: u64,
    reservation: Option<Reservation>,
}

impl ResponseMemory {
    /// Reserves memory for the response to a call, if it may be large.
    pub(super) async fn reserve(api: &Api, caller: &Caller, admitted: &Admitted) -> Result<Self, ApiError> {
        let faults = admitted.refused.iter().flat_map(|refused| &refused.errors);
        let errors: usize = faults.map(|fault| 2 * fault.message.len() + fault.pointer.len() + 100).sum();
        Self::reserve_for(api, caller, admitted.views.values(), errors).await
    }

    /// Reserves memory for a response with these messages, and `others` bytes besides them.
    pub(super) async fn reserve_for(
        api: &Api,
        caller: &Caller,
        messages: impl Iterator<Item = &Accepted>,
        others: usize,
    ) -> Result<Self, ApiError> {
        let recipients = |message: &Accepted| message.recipients.iter().map(|to| to.address.len() + 120).sum::<usize>();
        let warnings = |message: &Accepted| message.warnings.iter().map(|one| one.message.len() + 80).sum::<usize>();
        let bytes: usize = messages.map(|message| 200 + recipients(message) + warnings(message)).sum();
        let bytes = (bytes + others) as u64;
        let reservation = if bytes > SMALL_BODY_BYTES {
            Some(api.responses.reserve(Some(caller.requester()), bytes).await?)
        } else {
            None
        };
        Ok(Self { bytes, reservation })
    }
}

/// Returns the response with status 202.
pub(super) async fn respond(
    batch: AcceptedBatch,
    memory: ResponseMemory,
    is_replayed: bool,
) -> Result<Response, ApiError> {
    let json = if memory.bytes > LARGE_BODY_BYTES as u64 {
        tokio::task::spawn_blocking(move || serde_json::to_vec(&batch)).await.map_err(|_| ApiError::Internal)?
    } else {
        serde_json::to_vec(&batch)
    };
    let json = json.map_err(|_| ApiError::Internal)?;
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    let mut response = match memory.reservation {
        Some(reservation) => {
            reservation.shrink(json.len() as u64);
            let body = Body::from(response::with_reservation(json, Arc::new(reservation)));
            response::mark_reserved((StatusCode::ACCEPTED, kind, body).into_response())
        }
        None => (StatusCode::ACCEPTED, kind, json).into_response(),
    };
    if is_replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}
