//! Delivers one claimed message.

pub(crate) mod attempt;
pub(crate) mod envelopes;
pub(crate) mod lease_check;
pub(crate) mod loaded_message;
pub(crate) mod memory_budget;
pub(crate) mod signing;
pub(crate) mod suppression_check;
