//! The processes of the service and the sink, each of which ends with this process.

mod guard;
mod service;
mod sink;

use std::path::PathBuf;

pub(in crate::bench) use service::{Service, run_to_end};
pub(in crate::bench) use sink::Sink;

use crate::bench::BenchError;
use crate::bench::error::Doing as _;

/// The path of this program.
fn program() -> Result<PathBuf, BenchError> {
    std::env::current_exe().doing("find the file of this program")
}
