//! Servers that fail during a delivery.

mod connection_drops;
mod dns_errors;
mod mx_down;
mod reply_421;
mod slow_final_reply;
