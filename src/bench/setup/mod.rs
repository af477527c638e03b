//! The setup that is measured: its processes, its database, and the messages that wait in it.

mod backlog;
mod keys;
pub(super) mod process;
mod scratch;
pub(super) mod stage;
