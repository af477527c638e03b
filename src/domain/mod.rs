//! The types and rules that every other module shares. No I/O, no async, no SQL.

pub mod address;
pub mod attachment_link;
pub mod binary;
pub mod bounce;
pub mod delivery;
pub mod event;
pub mod explain;
pub mod fault;
pub mod fingerprint;
pub mod id;
pub mod key;
pub mod keyring;
pub mod lane;
pub mod limits;
pub mod message;
pub mod network;
pub mod open_object;
pub mod outcome;
pub mod problem;
pub mod return_path;
pub mod routing;
pub mod sender_domain;
pub mod simulator;
pub mod suppression;
pub mod webhook;
pub mod words;
