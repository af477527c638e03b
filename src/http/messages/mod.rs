//! `/v1/messages`: accepts, lists, exports, returns, explains, cancels, reschedules, retries and redacts messages.

pub(super) mod actions;
pub(super) mod batch;
pub(super) mod bulk;
pub(super) mod control;
pub(super) mod create;
pub(super) mod export;
pub(super) mod finished;
mod plan;
pub(super) mod raw;
pub(super) mod read;
pub(super) mod redact;
mod reply;
mod sender;
