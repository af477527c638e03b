//! The sources of the configuration: reads the file and the environment, merges them, and reports their problems.

pub(super) mod file;
pub(super) mod keys;
pub(super) mod load;
pub(super) mod problem;
pub(super) mod variables;
