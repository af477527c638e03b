//! Sender domains: their DKIM keys and their DNS records.

pub mod dkim;
pub mod dns_records;
