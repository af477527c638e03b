//! One connection, from the socket upward: replies, TLS, EHLO, AUTH and the open session.

pub(in crate::smtp) mod auth;
#[cfg(test)]
pub(in crate::smtp) mod corrupt_replies;
pub(in crate::smtp) mod ehlo;
pub(in crate::smtp) mod handshake;
pub(in crate::smtp) mod reply;
pub(in crate::smtp) mod session;
pub(in crate::smtp) mod tls;
pub(in crate::smtp) mod transcript;
pub(in crate::smtp) mod wire;
pub(in crate::smtp) mod words;
