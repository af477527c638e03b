//! `/v1/messages`: accept, list, read, explain and control mail.

pub(super) mod control;
pub(super) mod create;
pub(super) mod explain;
pub(super) mod list;
mod plan;
pub(super) mod raw;
pub(super) mod read;
mod sender;
mod view;
