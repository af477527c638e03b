//! The types and rules that every other module shares. No I/O, no async, no SQL.

pub mod address;
pub mod api;
pub mod bounce;
pub mod delivery;
pub mod event;
pub mod explain;
pub mod id;
pub mod inbound;
pub mod installation;
pub mod key;
pub mod lane;
pub mod limits;
pub mod message;
pub mod network;
pub mod outcome;
pub mod provider;
pub mod records;
pub mod routing;
pub mod sender_domain;
pub mod simulator;
pub mod statistics;
pub mod suppression;
pub mod tenant;
pub mod webhook;
pub mod words;
