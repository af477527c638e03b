//! The restore guard, with the tools of Postgres: a database that was restored, rolled back or copied sends nothing until it is
//! released, and one that was restarted, crashed or failed over without a loss goes on.

mod backups;
mod copies;
mod failover;
mod read_only;
mod release;
mod server;
mod service;
mod undecided;
