//! Postrider accepts messages from applications over HTTP, stores them in Postgres and delivers them over SMTP.
//!
//! A message passes through the modules in this order:
//!
//! ```text
//! http ─▶ accept ─▶ db ─▶ worker ─▶ smtp ─▶ worker ─▶ db
//! ```
//!
//! - [`http`] maps requests to calls and results to responses;
//! - [`ui`] is the dashboard, which calls [`http`] within the process;
//! - [`accept`] validates messages and commits them in groups;
//! - [`feedback`] applies received bounces and complaints;
//! - [`db`] contains every SQL statement;
//! - [`worker`] claims due recipients, sends their messages and commits the outcomes;
//! - [`simulator`] plays the last hop of messages to simulator addresses;
//! - [`mail`] builds MIME messages and parses reports, without I/O;
//! - [`template`] turns templates and variables into subjects and bodies, without I/O;
//! - [`rendering`] renders the bodies of a bulk's messages when they are sent, and caches the templates;
//! - [`smtp`] talks to other mail servers and does not use the database;
//! - [`webhook`] posts events to webhook endpoints and does not use the database;
//! - [`http_client`] sends requests to untrusted servers, for webhooks and MTA-STS policies;
//! - [`metrics`] counts what this process does, for Prometheus;
//! - [`http_client`] sends requests to untrusted servers, for webhooks, MTA-STS policies and files to attach, which
//!   [`fetch`] downloads; [`url_guard`] decides which addresses the URLs of API users may have;
//! - [`object_storage`] stores and reads large attachments in a bucket, if one is configured;
//! - [`cache`] is a bounded cache, [`batcher`] combines concurrent requests into one call, [`limiter`] limits
//!   concurrency;
//! - [`domain`] contains the shared types and rules, without I/O.
//!
//! [`app`] builds, starts and stops the service; [`cli`] has one file or folder per command; [`dev`] contains the
//! embedded Postgres and the inbox that catches messages on a developer's machine; [`mod@bench`] measures the service
//! from outside.

pub mod accept;
pub mod app;
pub mod batcher;
pub mod bench;
pub mod cache;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod dev;
pub mod dns;
pub mod domain;
pub mod feedback;
pub mod fetch;
pub mod group_commit;
pub mod http;
pub mod http_client;
pub mod limiter;
pub mod mail;
pub mod metrics;
pub mod object_storage;
pub mod rendering;
pub mod simulator;
pub mod smtp;
pub mod telemetry;
pub mod template;
pub mod ui;
pub mod url_guard;
pub mod webhook;
pub mod worker;
