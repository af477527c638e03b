//! The sections about the API and the dashboard.

pub(in crate::config) mod accept;
pub(in crate::config) mod dashboard;
pub(in crate::config) mod http;
pub(in crate::config) mod resend;
