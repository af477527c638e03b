//! Sending of accepted messages until their recipients reach end states.

mod direct_handoff;
mod expiry;
mod greylisting;
mod many_at_once;
mod message_bytes;
mod one_transaction_per_message;
mod permanent_refusals;
mod retry_policies;
mod route_failover;
mod routes;
mod scheduled_and_canceled;
mod too_many_recipients;
