//! The command line.

mod bench;
mod doctor_domains;
mod doctor_service;
mod migrations;
