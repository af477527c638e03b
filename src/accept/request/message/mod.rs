//! Parses a message: its recipients, content, attachments, headers and times.

pub mod address;
pub mod alternatives;
pub mod attachments;
pub mod headers;
pub mod metadata;
pub mod render;
pub mod reply;
pub mod reschedule;
pub mod schedule;
pub mod send;
pub mod tags;
