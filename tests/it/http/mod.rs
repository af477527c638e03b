//! The HTTP server: limits and protocol.

mod connections;
mod flood;
mod headers;
mod memory;
mod protocol;
