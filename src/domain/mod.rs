//! The types and rules that every other module shares. No I/O, no async, no SQL.

pub mod address;
pub mod bounce;
pub mod condition;
pub mod delivery;
pub mod endpoint;
pub mod event;
pub mod explain;
pub mod fault;
pub mod id;
pub mod key;
pub mod keyring;
pub mod lane;
pub mod limits;
pub mod message;
pub mod network;
pub mod outcome;
pub mod problem;
pub mod relay;
pub mod report;
pub mod retry;
pub mod retry_hint;
pub mod return_path;
pub mod routing;
pub mod share;
pub mod throttle;
pub mod webhook;
