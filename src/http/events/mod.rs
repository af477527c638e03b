//! `/v1/events`: what happened to all of a tenant's mail, in order, by pages, by long poll or as a stream.

mod event_notifier;
mod feed;
mod stream;

pub(super) use event_notifier::EventNotifier;
pub(super) use feed::*;
