//! `postrider bench`: measures an installation from outside, for operators and developers.
//!
//! It starts separate processes: a Postgres (durable, as in production) or uses a given one, the service as an operator
//! runs it (`process::service`), and a sink that accepts and counts every message ([`sink`]). It sends requests over
//! HTTP from this process (`load`), waits until everything has arrived and is recorded, and prints the figures
//! (`report`).
//!
//! Guarantees:
//! - the service has no special mode: events, statuses, leases and lanes are the same as in production;
//! - `lost` and `duplicates` are counted: every message has its number in a header and in its recipients' addresses, the
//!   sink remembers each pair, and both are compared with what was answered 202;
//! - CPU is measured separately for the service, Postgres with all its backends, the sink, and the generator (this
//!   process);
//! - however it ends, no process that it started outlives it, and its directory is removed;
//! - on a given database it sends no messages of others: it refuses to run if some wait there.
//!
//! In the order of a run: `options`, `stage` (with `process`), `backlog`, `mail` and `http` (the requests),
//! `load`, `measure` (with `cpu`, `histogram`, `seen`, `progress`), `report`, `machine`.

mod backlog;
mod cpu;
mod dkim;
mod error;
mod histogram;
mod http;
mod load;
mod machine;
mod mail;
mod measure;
mod options;
mod process;
mod progress;
mod report;
mod scratch;
mod seen;
pub mod sink;
mod stage;

pub use error::BenchError;
pub use options::Options;
pub use report::Report;

use tokio_util::sync::CancellationToken;

/// Runs the measurement, and cleans up. When `stop` is cancelled, it ends early and cleans up as well.
pub async fn run(options: &Options, stop: CancellationToken) -> Result<Report, BenchError> {
    options.check()?;
    let setting = Box::pin(stage::Stage::set(options));
    let mut stage = stop.run_until_cancelled(setting).await.ok_or(BenchError::Stopped)??;
    let measuring = Box::pin(measure::measure(options, &mut stage));
    let measured = stop.run_until_cancelled(measuring).await.ok_or(BenchError::Stopped);
    let cleared = stage.clear().await;
    let report = measured??;
    cleared?;
    Ok(report)
}
