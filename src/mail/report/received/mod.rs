//! The received message: its parts and fields, and the addresses and replies in them.

pub(super) mod address;
pub(super) mod fields;
pub(super) mod parts;
pub(super) mod status;
