//! Suppressions and unsubscribe links.

mod api;
mod import;
mod suppressed_messages;
mod unsubscribe;
