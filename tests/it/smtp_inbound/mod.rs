//! The receiving SMTP server.

mod limits;
mod session;
mod tls;
