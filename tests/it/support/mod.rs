//! The test harness: Postrider with a database, a clock and servers for each test. The servers listen on real sockets,
//! at ports that the system chooses, and each test scripts their replies.

pub mod app;
pub mod aws_roles;
pub mod certificate;
pub mod client;
pub mod clock;
pub mod dev;
pub mod dns;
pub mod domains;
pub mod fleet;
pub mod form;
pub mod hooks;
pub mod inbound_client;
pub mod invariants;
pub mod json_schema;
pub mod load;
pub mod many_messages;
pub mod own_postgres;
pub mod pgbouncer;
pub mod policy;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod python;
pub mod raw_http;
pub mod receiver;
pub mod reports;
pub mod s3;
pub mod sending;
pub mod sink;
pub mod site;
pub mod smtp;
pub mod until;
pub mod uploads;
