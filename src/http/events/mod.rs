//! `/v1/events`: what happened to all of a tenant's mail, in order, by pages, by long poll or as a stream.

mod feed;
mod news;
mod stream;

pub(super) use feed::*;
pub(super) use news::News;
