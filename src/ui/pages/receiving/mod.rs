//! What is received: the messages, and the inbound routes for which they are received.

mod message;
pub(super) mod messages;
pub(super) mod routes;
mod verdicts;
