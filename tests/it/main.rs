//! All integration tests, in one binary. A file is named after its scenario; `support` is the harness.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test that cannot continue should fail at that line")]

mod actions;
mod api;
mod audit;
mod auth;
mod batch;
mod bounces;
mod bulks;
mod cli_client;
mod commands;
mod crashes;
mod delivery;
mod dev;
mod dkim;
mod error_details;
mod failures;
mod http;
mod lanes;
mod mime;
mod openapi_events;
mod openapi_shapes;
mod outage;
mod repository;
mod resend;
mod shutdown;
mod simulator;
mod smtp;
mod smtp_connections;
mod smtp_inbound;
mod support;
mod suppressions;
mod templates;
mod uploads;
mod webhooks;
