//! The processes of the stage, each of which ends with us: the service, and the sink.

mod guard;
mod service;
mod sink;

use std::path::PathBuf;

pub(super) use service::{Service, run_to_end};
pub(super) use sink::Sink;

use super::BenchError;
use super::error::Doing as _;

/// This program's own file.
fn program() -> Result<PathBuf, BenchError> {
    std::env::current_exe().doing("find this program's own file")
}
