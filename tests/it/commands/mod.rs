//! The command line.

mod bench;
mod database_tls;
mod doctor_domains;
mod doctor_service;
mod migrations;
