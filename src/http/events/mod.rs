//! `/v1/events`: a tenant's event feed, in pages, by long poll or as a stream.

mod event_notifier;
mod feed;
mod stream;

pub(super) use event_notifier::EventNotifier;
pub(super) use feed::*;
