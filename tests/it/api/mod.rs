//! The HTTP API, resource by resource.

mod attachments;
mod bad_input;
mod domains;
mod dry_run;
mod event_feed;
mod explain;
mod export;
mod generated_client;
mod idempotency;
mod ledger;
mod list_and_filters;
mod openapi;
mod openapi_examples;
mod openapi_generator;
mod unverified_senders;
