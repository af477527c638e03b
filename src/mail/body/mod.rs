//! The parts of a message's body: text, alternatives and attachments.

pub mod alternative;
pub(super) mod attachment;
pub(super) mod content_id;
pub(super) mod text;
