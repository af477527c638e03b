//! Commands of the operator.

mod bench;
mod doctor_domains;
mod doctor_service;
mod migrations;
