//! The sections about the SMTP servers: for bounces and inbound routes, and for submission.

pub(in crate::config) mod inbound;
pub(in crate::config) mod submission;
