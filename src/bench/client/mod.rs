//! The client of the measured service: its HTTP connections, and the requests that it sends.

pub(super) mod dkim;
pub(super) mod http;
pub(super) mod mail;
pub(super) mod submission;
pub(super) mod template;
