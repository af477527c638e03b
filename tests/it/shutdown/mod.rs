//! Starts, stops and restarts.

mod rolling_restarts;
mod serve_processes;
