//! The SMTP servers of a process: for bounces and inbound routes, and for submission.

pub(super) mod bounce_intake;
pub(super) mod smtp_listener;
pub(super) mod submission;
