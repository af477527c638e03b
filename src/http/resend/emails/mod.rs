//! `/emails`: sends, lists, reads, reschedules and cancels messages.

pub(super) mod attachments;
pub(super) mod batch;
pub(super) mod control;
mod downloads;
pub(super) mod read;
pub(super) mod send;
mod view;
