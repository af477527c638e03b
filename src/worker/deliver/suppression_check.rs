//! The second look at the suppression list: whoever was put on it since a mail was accepted gets nothing.
//!
//! One look-up for all that a claim has brought, and none later: what is put on the list while a mail is under way finds it
//! under way.

use std::collections::HashSet;

use uuid::Uuid;

use super::loaded_message::LoadedMessage;
use crate::db::DbError;
use crate::db::queue::Finished;
use crate::db::suppressions::{self, Addressed};
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::TenantId;
use crate::domain::suppression::AddressKey;
use crate::worker::Parts;

/// Takes out and completes whoever is suppressed, and leaves out mails that are for nobody any more.
pub(crate) async fn take_out(parts: &Parts, mails: &mut Vec<LoadedMessage>) -> Result<(), DbError> {
    let now = parts.clock.now();
    let rows: Vec<_> = mails
        .iter()
        .filter(|mail| !mail.message.row.ignore_suppression)
        .flat_map(|mail| mail.claimed.iter().map(move |claimed| (mail, claimed)))
        // An address that cannot be read is told of when the mail is prepared.
        .filter_map(|(mail, claimed)| Some((mail, claimed, mail.message.address(claimed.recipient_id).ok()?)))
        .collect();
    let addressed: Vec<Addressed<'_>> = rows
        .iter()
        .map(|(mail, claimed, address)| Addressed {
            tenant: TenantId(claimed.tenant_id),
            address: AddressKey::from(address),
            stream: &mail.message.row.stream,
            at: now,
        })
        .collect();
    let found = suppressions::check(&parts.db, &addressed).await?;
    let ended: Vec<Finished> = found
        .into_iter()
        .filter_map(|(place, entry)| {
            let (_, claimed, _) = rows.get(place)?;
            Some(Finished {
                claimed: (*claimed).clone(),
                outcome: Some(entry.outcome()),
                transition: Transition::End(Status::Suppressed),
                started_at: now,
                is_alone: false,
            })
        })
        .collect();
    if ended.is_empty() {
        return Ok(());
    }
    let keys: HashSet<(Uuid, Uuid)> = ended.iter().map(|finished| finished.claimed.key()).collect();
    for mail in mails.iter_mut() {
        mail.claimed.retain(|row| !keys.contains(&row.key()));
    }
    mails.retain(|mail| !mail.claimed.is_empty());
    parts.completer.complete(ended);
    Ok(())
}
