//! Workers that crash, and messages that cause crashes.

mod dead_workers;
mod killed_after_data;
mod killed_processes;
mod orphaned_leases;
mod panics;
mod quarantine;
mod refused_outcomes;
