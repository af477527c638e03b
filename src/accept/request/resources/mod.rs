//! Parses the bodies of requests that create or change resources other than messages.

pub mod action;
pub mod domain;
pub mod key;
pub mod lane;
pub mod pause;
pub mod replay;
pub mod stream;
pub mod suppression;
pub mod template;
pub mod tenant;
pub mod test_clock;
pub mod trace;
pub mod webhook;
