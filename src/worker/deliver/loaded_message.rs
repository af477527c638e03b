//! What a worker has in hand: claimed recipients with the message they belong to.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::suppression_check;
use crate::db::DbError;
use crate::db::drafts::{self, DraftError, Stored};
use crate::db::queue::Claimed;
use crate::domain::address::Address;
use crate::domain::id::TenantId;
use crate::domain::outcome::OnUncertain;
use crate::worker::Parts;
use crate::worker::lease::release;

/// One message and those of its recipients that were claimed.
#[derive(Debug)]
pub(crate) struct Mail {
    pub message: Stored,
    pub claimed: Vec<Claimed>,
}

/// What a claim turned out to be.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub mails: Vec<LoadedMessage>,
    /// Recipients whose message is not stored (any more).
    pub orphans: Vec<Claimed>,
}

/// Loads the messages that these recipients belong to. Who is suppressed is completed, and left out.
pub(crate) async fn load(parts: &Parts, claimed: &[Claimed]) -> Result<Loaded, DbError> {
    let mut by_message = HashMap::<Uuid, Vec<Claimed>>::new();
    let mut by_tenant = HashMap::<Uuid, HashSet<Uuid>>::new();
    for row in claimed {
        by_tenant.entry(row.tenant_id).or_default().insert(row.message_id);
        by_message.entry(row.message_id).or_default().push(row.clone());
    }
    let mut mails = Vec::with_capacity(by_message.len());
    for (tenant, ids) in by_tenant {
        let ids: Vec<Uuid> = ids.into_iter().collect();
        let messages = drafts::load(&parts.db, TenantId(tenant), &ids).await?;
        mails.extend(messages.into_iter().filter_map(|message| {
            let claimed = by_message.remove(&message.row.id)?;
            Some(Mail { message, claimed })
        }));
    }
    suppression_check::take_out(parts, &mut mails).await?;
    Ok(Loaded { mails, orphans: by_message.into_values().flatten().collect() })
}

/// The same for one message. Where it cannot be loaded now it is given back, where it never can be it is held.
pub(crate) async fn load_one(parts: &Parts, claimed: Vec<Claimed>) -> Option<Loaded> {
    match load(parts, &claimed).await {
        Ok(loaded) => return Some(loaded),
        Err(error) if error.is_passing() => release::release(&parts.db, &parts.in_flight, claimed).await,
        Err(error) => {
            let reason = format!("held: what is stored of the message cannot be read: {error}");
            release::hold(&parts.db, &parts.in_flight, claimed, &reason).await;
        }
    }
    None
}

impl Mail {
    /// What the sender wants where nobody knows whether the mail arrived.
    pub(crate) fn on_uncertain(&self) -> OnUncertain {
        self.message.row.on_uncertain.parse().unwrap_or_default()
    }

    /// The claimed recipients with their addresses, in the order of the request.
    pub(crate) fn recipients(&self) -> Result<Vec<(Claimed, Address)>, DraftError> {
        let mut claimed: Vec<&Claimed> = self.claimed.iter().collect();
        let place = |id| self.message.addressees.iter().position(|row| row.id == id);
        claimed.sort_by_cached_key(|row| place(row.recipient_id));
        claimed.into_iter().map(|row| Ok((row.clone(), self.message.address(row.recipient_id)?))).collect()
    }
}
