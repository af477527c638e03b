//! Parses the bodies of requests that create or change resources other than messages.

pub mod domain;
pub mod inbound_route;
pub mod key;
pub mod lane;
pub mod operations;
pub mod stream;
pub mod suppression;
pub mod template;
pub mod tenant;
pub mod webhook;
