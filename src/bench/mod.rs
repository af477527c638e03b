//! `postrider bench`: measures a Postrider installation from outside, for operators and developers.
//!
//! It starts separate processes: a Postgres (durable, as in production) unless a database is given, the service as an
//! operator runs it (`process::service`), and a sink that accepts and counts every message ([`sink`]). It sends
//! requests over HTTP from this process (`load`), waits until all messages have arrived and all outcomes are recorded,
//! and prints the results (`report`).
//!
//! Guarantees:
//! - the service has no special mode: events, statuses, leases and lanes are the same as in production;
//! - `lost` and `duplicates` are counted: every message has its number in a header and in its recipients' addresses,
//!   the sink compares both (with a template, also the rendered subject), and the bench compares what has arrived with
//!   the messages that were answered 202;
//! - CPU is measured separately for the service, Postgres with all its backends, the sink, and the generator (this
//!   process);
//! - however the bench ends, no process that it started outlives it, and its directory is removed;
//! - it never sends messages that others queued: it refuses to run on a database in which such messages wait.
//!
//! In the order of a run: `options`, `stage` (with `process`), `backlog`, `dkim`, `template`, `mail` and `http` (the
//! requests), `load`, `measure` (with `cpu`, `histogram`, `seen`, `progress`), `report`, `machine`.

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
mod template;

pub use error::BenchError;
pub use options::Options;
pub use report::Report;

use tokio_util::sync::CancellationToken;

/// Runs the measurement, and cleans up, even if `stop` is cancelled before the end.
pub async fn run(options: &Options, stop: CancellationToken) -> Result<Report, BenchError> {
    options.check()?;
    let starting = Box::pin(stage::Stage::start(options));
    let mut stage = stop.run_until_cancelled(starting).await.ok_or(BenchError::Stopped)??;
    let measuring = Box::pin(measure::measure(options, &mut stage));
    let measured = stop.run_until_cancelled(measuring).await.ok_or(BenchError::Stopped);
    let torn_down = stage.tear_down().await;
    let report = measured??;
    torn_down?;
    Ok(report)
}
