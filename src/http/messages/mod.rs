//! `/v1/messages`: accepts, lists, returns, explains, cancels, reschedules and retries messages.

pub(super) mod control;
pub(super) mod create;
pub(super) mod explain;
pub(super) mod list;
mod parse;
mod plan;
pub(super) mod raw;
pub(super) mod read;
mod sender;
mod view;
