//! The database as a process uses it: its server, connections, partitions, the settings of its replicas, and the restore guard.

pub mod connections;
pub mod fingerprints;
pub(super) mod partitions;
pub mod restore_guard;
pub(super) mod server_watch;
