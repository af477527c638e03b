//! What is kept and for how long: the audit log, the periods of retention, and the erasure of an address.

pub mod audit;
pub mod erasure;
pub mod retention;
