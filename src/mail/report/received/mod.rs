//! The received message: its parts and fields, and the addresses and replies in them.

pub(super) mod address;
pub(in crate::mail) mod fields;
pub(in crate::mail) mod parts;
pub(super) mod status;
