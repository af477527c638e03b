//! Work in the background of every process with the API: stored jobs, messages sent from SQL, and relays of received messages.

pub mod actions;
pub mod erasures;
mod leased_jobs;
mod poll_loop;
pub mod relays;
pub mod sql_inbox;
pub mod work_poll;
