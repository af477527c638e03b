//! One message that is delivered: its memory, its content, its recipients and its signature.

pub(crate) mod loaded_message;
pub(crate) mod memory_budget;
pub(crate) mod signing;
pub(crate) mod suppression_recheck;
