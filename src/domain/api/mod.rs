//! Shapes that the whole API shares: problems, faults, and schemas of bodies and objects.

pub mod binary;
pub mod fault;
pub mod open_object;
pub mod problem;
