//! `postrider bench`: measures a Postrider installation from outside, for operators and developers.
//!
//! It starts separate processes: a Postgres (durable, as in production) unless a database is given, the service as an
//! operator runs it (`setup::process`), and a sink that accepts and counts every message ([`sink`]). It sends
//! requests over HTTP from this process (`measure::load`), waits until all messages have arrived and all outcomes are
//! recorded, and prints the results (`measure::report`).
//!
//! Guarantees:
//! - the service has no special mode: events, statuses, leases and lanes are the same as in production;
//! - `lost` and `duplicates` are counted: every message has its number in a header and in its recipients' addresses,
//!   the sink compares both (with a template, also the rendered subject), and the bench compares what has arrived with
//!   the messages that were accepted with 202;
//! - CPU is measured separately for the service, Postgres with all its backends, the sink, and the generator (this
//!   process);
//! - however the bench ends, no process that it started outlives it, and its directory is removed;
//! - it never sends messages that others queued: it refuses to run on a database in which such messages wait.
//!
//! The modules, in the order in which a run uses them:
//! - `options`: the options of the command;
//! - `setup`: starts the processes (`stage`, `process`), and queues messages beforehand (`backlog`);
//! - `client`: registers a domain and a template (`dkim`, `template`), and sends the requests (`mail`, `http`);
//! - `measure`: generates the load and measures (`load`, `cpu`, `histogram`; `seen` and `progress` beside it), and
//!   prints the results (`report`, `machine`).

mod client;
mod error;
mod measure;
mod options;
mod progress;
mod seen;
mod setup;
pub mod sink;

pub use error::BenchError;
pub use measure::report::Report;
pub use options::Options;

use tokio_util::sync::CancellationToken;

/// Runs the measurement, and cleans up, even if `stop` is cancelled before the end.
pub async fn run(options: &Options, stop: CancellationToken) -> Result<Report, BenchError> {
    options.check()?;
    let starting = Box::pin(setup::stage::Stage::start(options));
    let mut stage = stop.run_until_cancelled(starting).await.ok_or(BenchError::Stopped)??;
    let measuring = Box::pin(measure::measure(options, &mut stage));
    let measured = stop.run_until_cancelled(measuring).await.ok_or(BenchError::Stopped);
    let torn_down = stage.tear_down().await;
    let report = measured??;
    torn_down?;
    Ok(report)
}
