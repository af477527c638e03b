//! The limits that all sessions of a server share: connections and messages of each client, the memory of messages in
//! transfer, and which session ends for a new one.

pub(super) mod clients;
pub(super) mod eviction;
pub(super) mod memory;
