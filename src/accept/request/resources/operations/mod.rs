//! Parses the bodies of requests that do something with a resource, such as to pause it.

pub mod action;
pub mod erasure;
pub mod pause;
pub mod replay;
pub mod test_clock;
pub mod trace;
