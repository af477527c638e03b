//! Every integration test, in one binary. A file is named for its scenario; `support` is the harness.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod dev_command;
mod dev_inbox_routes;
mod dev_postgres;
mod greylisted_then_delivered;
mod idempotency;
mod keys;
mod layers;
mod link_dies;
mod list_and_filters;
mod mail_as_sent;
mod many_at_once;
mod openapi;
mod relay_refuses_for_good;
mod scheduled_and_canceled;
mod send_bad_input;
mod serve_processes;
mod smtp_auth;
mod smtp_delivery;
mod smtp_extensions;
mod smtp_faults;
mod smtp_in;
mod smtp_in_limits;
mod smtp_mx;
mod smtp_pool;
mod smtp_tls;
mod support;
mod time_runs_out;
mod worker_dies;
