//! Work in the background of every process with the API: stored jobs, messages sent from SQL, and relays of received messages.

pub mod actions;
pub mod erasures;
mod leased_jobs;
pub mod relays;
pub mod sql_inbox;
mod turns;
pub mod work_poll;
