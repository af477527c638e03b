//! Sends messages that this process accepted without a claim.

pub(crate) mod direct;
pub(crate) mod gate;
