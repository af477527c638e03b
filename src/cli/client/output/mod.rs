//! What client commands print.

pub(super) mod table;
pub(super) mod terminal;
