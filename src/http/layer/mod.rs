//! The layer around every request.

pub(super) mod request_id;
pub(super) mod security;
pub(super) mod unread;
