//! `postrider dev`: its Postgres and its inbox.

mod command;
mod inbox_routes;
mod inbox_use;
mod postgres;
mod sends_nothing_out;
