//! The second check of the suppression list: a message is not sent to an address that was added to the list after the
//! message was accepted.
//!
//! There is one lookup per claim. For direct handoff, there is one only if the commit took long. There is no later one: a message that
//! is already being sent to an address is not stopped when the address is added.

use std::collections::HashSet;

use uuid::Uuid;

use super::loaded_message::LoadedMessage;
use crate::db::DbError;
use crate::db::queue::Finished;
use crate::db::suppressions::{self, Addressed};
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::TenantId;
use crate::domain::suppression::AddressKey;
use crate::worker::deliver::DeliverContext;

/// Removes the suppressed recipients from the messages and ends them, and removes messages that have no other
/// recipients.
pub(crate) async fn end_suppressed(cx: &DeliverContext, messages: &mut Vec<LoadedMessage>) -> Result<(), DbError> {
    let now = cx.clock.now();
    let rows: Vec<_> = messages
        .iter()
        .filter(|message| !message.stored.row.ignore_suppression)
        .flat_map(|message| message.claimed.iter().map(move |claimed| (message, claimed)))
        // An address that cannot be parsed is reported when the message is prepared.
        .filter_map(|(message, claimed)| Some((message, claimed, message.stored.address(claimed.recipient_id).ok()?)))
        .collect();
    let addressed: Vec<Addressed<'_>> = rows
        .iter()
        .map(|(message, claimed, address)| Addressed {
            tenant: TenantId(claimed.tenant_id),
            address: AddressKey::from(address),
            stream: &message.stored.row.stream,
            at: now,
        })
        .collect();
    let found = suppressions::check(&cx.db, &addressed).await?;
    let ended: Vec<Finished> = found
        .into_iter()
        .filter_map(|(position, entry)| {
            let (_, claimed, _) = rows.get(position)?;
            Some(Finished {
                claimed: (*claimed).clone(),
                outcome: Some(entry.outcome()),
                transition: Transition::End(Status::Suppressed),
                started_at: now,
                is_alone: false,
                may_be_relayed: false,
                conversation: None,
            })
        })
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let keys: HashSet<(Uuid, Uuid)> = ended.iter().map(|finished| finished.claimed.key()).collect();
    for message in messages.iter_mut() {
        message.claimed.retain(|row| !keys.contains(&row.key()));
    }
    messages.retain(|message| !message.claimed.is_empty());
    cx.recorder.record(ended);
    Ok(())
}
