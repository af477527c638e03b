//! The types and rules that every other module shares. No I/O, no async, no SQL.

pub mod address;
pub mod delivery;
pub mod event;
pub mod fault;
pub mod id;
pub mod key;
pub mod message;
pub mod outcome;
pub mod problem;
pub mod retry;
