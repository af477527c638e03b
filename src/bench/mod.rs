//! `postrider bench`: measures an installation from outside, for operators and for us.
//!
//! It sets a stage of separate processes: a Postgres of its own (durable: what is measured is what a 202 stands on) or one
//! that is given, the service as an operator runs it (`process::service`), and a sink that takes every mail and
//! counts it ([`sink`]). It loads the API over HTTP from this process (`load`), waits until everything has arrived and
//! is on record, and tells the figures (`report`).
//!
//! What it promises:
//! - the service runs in no special mode: events, statuses, leases and lanes are what they are in production;
//! - `lost` and `duplicates` are counted: every mail carries its number in a header and in its recipients' addresses, the
//!   sink remembers each pair, and both are held against what was answered 202;
//! - the CPU of each side is its own: service, Postgres with all its backends, sink, and generator (this process);
//! - whatever way it ends, nothing that it started outlives it, and its directory is removed;
//! - on a database that is given it sends nobody's mail: where some waits it refuses to run.
//!
//! In the order of a run: `options`, `stage` (with `process`), `backlog`, `mail` and `http` (what is sent, and how),
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

/// Measures, and leaves nothing behind. With `stop` it ends early, in order.
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
