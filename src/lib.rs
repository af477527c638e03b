//! Postrider takes mail from applications over HTTP, keeps it in Postgres and delivers it over SMTP.
//!
//! A mail moves one way through the modules, in this order:
//!
//! ```text
//! http ─▶ accept ─▶ db ─▶ worker ─▶ smtp ─▶ worker ─▶ db
//! ```
//!
//! - [`http`] turns a request into a call and a result into an answer;
//! - [`accept`] turns bytes into a validated message and commits it together with its neighbours;
//! - [`feedback`] takes mail that comes back, and lets bounces and complaints take effect;
//! - [`db`] holds every SQL statement;
//! - [`worker`] claims what is due, has it sent, and commits what came of it;
//! - [`mail`] turns a message into MIME, without touching a socket;
//! - [`smtp`] speaks to other mail servers and knows no database;
//! - [`webhook`] posts events to those who asked for them, and knows no database either;
//! - [`http_client`] sends requests to servers that are not trusted, for webhooks and MTA-STS policies;
//! - [`domain`] holds the types and rules that all of them share, free of I/O.
//!
//! [`app`] builds the parts and stops them; [`cli`] holds one file a command; [`dev`] is the embedded
//! Postgres and the inbox that catches mail on a developer's machine; [`mod@bench`] measures all of it from outside.

pub mod accept;
pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod db;
pub mod dev;
pub mod dns;
pub mod domain;
pub mod feedback;
pub mod group_commit;
pub mod http;
pub mod http_client;
pub mod mail;
pub mod smtp;
pub mod telemetry;
pub mod webhook;
pub mod worker;
