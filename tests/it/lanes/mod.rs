//! Lanes and streams: limits, pauses, unreachable destinations.

mod actions_race_workers;
mod admin;
mod changed_streams;
mod closed;
mod limits;
mod new_domains;
mod old_snapshot;
mod operator;
mod throttled;
mod unreachable;
