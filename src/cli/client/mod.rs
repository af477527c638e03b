//! Client commands: they call the HTTP API of a running Postrider, and read neither its configuration nor its database.
//!
//! Results go to standard output; warnings and errors go to standard error. Text from the server is printed without
//! control characters ([`terminal`](output::terminal)). The exit code tells scripts what kind of error it was ([`error`]).

mod api;
pub(super) mod error;
mod events;
mod explain;
mod lanes;
mod list;
mod output;
mod send;
mod suppressions;
mod tenants;

use std::io;
use std::process::ExitCode;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Send a message through the API
    Send(Box<send::Args>),
    /// Explain where each recipient of a message is, and why
    Explain(explain::Args),
    /// List lanes; pause, resume, retry or reset one
    Lanes(lanes::Args),
    /// Print events, one per line
    Events(events::Args),
    /// List, add, remove or check suppressed addresses
    Suppressions(suppressions::Args),
    /// List tenants; create, suspend or resume one
    Tenants(tenants::Args),
}

/// Runs a client command.
pub(super) fn run(command: Command) -> anyhow::Result<ExitCode> {
    // The second thread handles signals while the main thread writes to a pipe that nobody reads.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let result = runtime.block_on(async {
        match command {
            Command::Send(args) => send::run(*args).await,
            Command::Explain(args) => explain::run(args).await,
            Command::Lanes(args) => lanes::run(args).await,
            Command::Events(args) => events::run(args).await,
            Command::Suppressions(args) => suppressions::run(args).await,
            Command::Tenants(args) => tenants::run(args).await,
        }
    });
    // A read from the terminal that is still in progress would delay the exit.
    runtime.shutdown_background();
    match result {
        // The reader of the output, such as `head`, has what it wanted.
        Err(error) if is_broken_pipe(&error) => Ok(ExitCode::SUCCESS),
        result => result.map(|()| ExitCode::SUCCESS),
    }
}

/// Returns whether standard output was closed. Errors of connections are of another type.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}
