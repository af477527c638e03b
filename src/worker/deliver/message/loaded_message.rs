//! A message in memory, with its leased recipients.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::suppression_recheck;
use crate::db::DbError;
use crate::db::messages::stored::{StoredMessage, StoredMessageError};
use crate::db::messages::{self, DeliveryRow};
use crate::db::queue::Claimed;
use crate::domain::address::Address;
use crate::domain::id::TenantId;
use crate::domain::outcome::OnUncertain;
use crate::limiter::ReservedPermit;
use crate::worker::deliver::DeliverContext;

/// One message and those of its recipients that were claimed.
#[derive(Debug)]
pub(crate) struct LoadedMessage {
    pub stored: StoredMessage,
    pub claimed: Vec<Claimed>,
    /// The memory reserved for it; `None` if its content is not in memory.
    pub memory: Option<ReservedPermit>,
}

/// The messages of a claim.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub messages: Vec<LoadedMessage>,
    /// Recipients whose message is not stored.
    pub orphans: Vec<Claimed>,
}

/// Loads the messages that these recipients belong to. Suppressed recipients are completed and left out.
pub(crate) async fn load(cx: &DeliverContext, claimed: &[Claimed]) -> Result<Loaded, DbError> {
    let mut by_message = HashMap::<Uuid, Vec<Claimed>>::new();
    let mut ids = HashSet::new();
    for row in claimed {
        ids.insert((TenantId(row.tenant_id), row.message_id));
        by_message.entry(row.message_id).or_default().push(row.clone());
    }
    let mut reserved = HashMap::new();
    let reserve = |row: &DeliveryRow| {
        let claimed = by_message.get(&row.id).map_or(&[][..], Vec::as_slice);
        let memory = cx.try_reserve_memory(row.size, claimed);
        memory.map(|memory| reserved.insert(row.id, memory)).is_some()
    };
    let stored = messages::stored::load(&cx.db, &ids.into_iter().collect(), reserve).await?;
    let loaded = stored.into_iter().filter_map(|stored| {
        let (claimed, memory) = (by_message.remove(&stored.row.id)?, reserved.remove(&stored.row.id));
        Some(LoadedMessage { stored, claimed, memory })
    });
    let mut messages: Vec<LoadedMessage> = loaded.collect();
    suppression_recheck::end_suppressed(cx, &mut messages).await?;
    Ok(Loaded { messages, orphans: by_message.into_values().flatten().collect() })
}

/// Loads one message. If it cannot be loaded now, its recipients are released; if it can never be loaded, they are
/// held.
pub(crate) async fn load_one(cx: &DeliverContext, claimed: Vec<Claimed>) -> Option<Loaded> {
    match load(cx, &claimed).await {
        Ok(loaded) => return Some(loaded),
        Err(error) if error.is_temporary() => cx.leases.release(claimed).await,
        Err(error) => {
            let reason = format!("held: the stored message cannot be read: {error}");
            cx.leases.hold(claimed, &reason).await;
        }
    }
    None
}

impl LoadedMessage {
    /// Returns what to do with a recipient if it is unknown whether the message arrived.
    pub(crate) fn on_uncertain(&self) -> OnUncertain {
        self.stored.row.on_uncertain.parse().unwrap_or_default()
    }

    /// Returns the claimed recipients with their addresses, in the order of the request.
    pub(crate) fn recipients(&self) -> Result<Vec<(Claimed, Address)>, StoredMessageError> {
        let mut claimed: Vec<&Claimed> = self.claimed.iter().collect();
        let position = |id| self.stored.addressees.iter().position(|row| row.id == id);
        claimed.sort_by_cached_key(|row| position(row.recipient_id));
        claimed.into_iter().map(|row| Ok((row.clone(), self.stored.address(row.recipient_id)?))).collect()
    }
}
