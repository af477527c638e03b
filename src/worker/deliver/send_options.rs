//! Chooses the options of a transaction: its urgency, and the limits of its lane.

use super::DeliverContext;
use crate::db::queue::Claimed;
use crate::smtp::{Limits, SendGuard, SendOptions};
use crate::worker::claim::allocation::URGENT;

impl DeliverContext {
    /// Returns the options for sending to recipients of one lane.
    pub(crate) fn send_options<'a>(&self, claimed: &[Claimed], guard: &'a dyn SendGuard) -> SendOptions<'a> {
        let Some(lane) = claimed.first().and_then(|row| self.leases.in_flight.lane(row.lane_id)) else {
            return SendOptions { urgent: false, limits: Limits::default(), guard };
        };
        let connections = lane.connections.and_then(|_| self.leases.permits.connections(lane.id));
        let messages_per_connection = lane.messages_per_connection.and_then(|messages| u32::try_from(messages).ok());
        let has_limits = connections.is_some() || messages_per_connection.is_some();
        let limits = Limits { lane: has_limits.then_some(lane.id), connections, messages_per_connection };
        SendOptions { urgent: lane.priority <= URGENT, limits, guard }
    }
}
