//! `postrider bench`, which measures an installation, and `postrider bench-sink`, the server that it sends to.

use std::process::ExitCode;

use tokio_util::sync::CancellationToken;

use super::signals::Signals;
use crate::bench;

/// Runs the benchmark and prints the results. Exits with 1 if messages were lost or duplicated.
pub(super) async fn run(options: bench::Options) -> anyhow::Result<ExitCode> {
    let stop = CancellationToken::new();
    let signals = Signals::listen()?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            signals.stop_requested().await;
            stop.cancel();
        }
    });
    let report = Box::pin(bench::run(&options, stop)).await?;
    if options.json {
        eprint!("{}", report.table());
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{}", report.table());
    }
    Ok(if report.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs the server. It needs no configuration and only one thread.
pub(super) fn sink(args: bench::sink::Args) -> anyhow::Result<ExitCode> {
    bench::sink::run(args)?;
    Ok(ExitCode::SUCCESS)
}
