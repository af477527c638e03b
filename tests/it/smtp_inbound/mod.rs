//! The inbound SMTP server.

mod limits;
mod session;
mod tls;
