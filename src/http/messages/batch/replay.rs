//! Returns the first response again to a call whose `Idempotency-Key` was used before.

use std::collections::HashSet;

use super::Committed;
use super::view::{self, AcceptedBatch, BatchEntry, ResponseMemory};
use crate::accept::batch::StoredResponse;
use crate::accept::request::RequestHashes;
use crate::accept::request::batch::{self, Layout};
use crate::db::messages::idempotency::CallUse;
use crate::http::auth::Caller;
use crate::http::request::send_body::SendBody;
use crate::http::{Api, ApiError};

/// Returns the first response again if this call is the same as the first one. The calls are compared by their hashes,
/// which are computed from `body` unless they are given.
pub(super) async fn replay_if_same(
    api: &Api,
    caller: &Caller,
    first: CallUse,
    mut body: SendBody,
    hashes: Option<RequestHashes>,
) -> Result<Committed, ApiError> {
    let hashes = match hashes {
        Some(hashes) => hashes,
        None => body.hashes(|json, files| batch::hashes(json, &Layout::read(json)?, files)).await?,
    };
    if first.is_same_request(&hashes.fingerprint, &hashes.digest) {
        return replay(api, caller, first).await;
    }
    Err(ApiError::KeyReused)
}

/// Returns the first response again.
pub(super) async fn replay(api: &Api, caller: &Caller, first: CallUse) -> Result<Committed, ApiError> {
    let StoredResponse { ids, errors } = StoredResponse::read(&first);
    let ids = ids.unwrap_or_else(|| first.message_ids.iter().copied().map(Some).collect());
    // The query reads the rows of up to 1,000 messages.
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    let distinct: HashSet<_> = ids.iter().copied().flatten().collect();
    let stored = view::stored(api, caller, &distinct.into_iter().collect::<Vec<_>>()).await?;
    let mut unseen: HashSet<_> = first.message_ids.into_iter().collect();
    let mut data = Vec::with_capacity(ids.len());
    for (index, id) in ids.into_iter().enumerate() {
        let Some(id) = id else { continue };
        let deleted = ApiError::NotFound("A message of this `Idempotency-Key` has been deleted.");
        let message = stored.get(&id).cloned().ok_or(deleted)?;
        data.push(BatchEntry { index, message, replayed: !unseen.remove(&id) });
    }
    let memory = ResponseMemory::reserve_for(api, caller, data.iter().map(|entry| &entry.message), 0).await?;
    Ok(Committed { batch: AcceptedBatch { data, errors }, memory, is_replay: true })
}
