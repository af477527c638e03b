//! The command line, with one file per command.

mod admin;
mod bench;
mod client;
mod dev;
mod doctor;
mod error;
mod healthcheck;
mod inbox;
mod serve;
mod signals;
mod systemd;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::app;
use crate::config::Config;
use crate::db::DbError;
use crate::db::pool::session::SessionError;
use crate::db::schema::SchemaError;
use crate::telemetry;
use admin::{keys, migrate, release, retention, sql_grant, statistics, tenant};

#[derive(Debug, Parser)]
#[command(
    name = "postrider",
    version,
    about = "Accepts messages over HTTP and SMTP, stores them in Postgres, delivers them over SMTP"
)]
struct Cli {
    /// Configuration file [default: ./postrider.toml, if it exists]
    #[arg(long, global = true, env = "POSTRIDER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: a private Postgres, API, worker, and an inbox that catches every message
    Dev(dev::Args),
    /// Run API and worker against a database
    Serve(serve::Args),
    /// Bring the database schema up to date
    Migrate,
    /// After a restore or a copy of the database: show what waits, and let workers and webhooks send again
    Release(release::Args),
    /// Manage API keys
    Keys(keys::Args),
    /// Let a role of the database server send messages from SQL; without a role, print those that may
    SqlGrant(sql_grant::Args),
    /// Move a tenant to another cell: export it to a file, or import it from one
    Tenant(tenant::Args),
    /// Manage the statistics
    Statistics(statistics::Args),
    /// Show what is deleted because of its age, and what is protected; or delete it now
    Retention(retention::Args),
    #[command(flatten)]
    Client(client::Command),
    /// Print the OpenAPI document
    Openapi,
    /// Check the database, the service and the configuration; one line per check
    Doctor,
    /// Run only the inbox: an SMTP server that catches every message, and the API to read them
    Inbox(inbox::Args),
    /// Check whether `serve` is running on this machine (for containers)
    Healthcheck,
    /// Measure this installation: rates, latency, CPU, memory, WAL and disk per message, and lost or duplicate messages
    Bench(crate::bench::Options),
    /// Run the server that `bench` sends to
    #[command(hide = true)]
    BenchSink(crate::bench::sink::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", error::report(&error));
            error::exit_code(&error)
        }
    }
}

/// Adds the database's address to database errors.
fn with_target(error: anyhow::Error, target: &str) -> anyhow::Error {
    let is_database_error =
        error.chain().any(|cause| cause.is::<DbError>() || cause.is::<SchemaError>() || cause.is::<SessionError>());
    if is_database_error { error.context(format!("database {target}")) } else { error }
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    // This needs no configuration, so that build scripts can run it.
    if let Command::Openapi = cli.command {
        println!("{}", crate::http::document().to_pretty_json()?);
        return Ok(ExitCode::SUCCESS);
    }
    if let Command::BenchSink(args) = cli.command {
        return bench::sink(args);
    }
    if let Command::Client(command) = cli.command {
        return client::run(command);
    }
    let mut config = Config::from_environment(cli.config.as_deref())?;
    if matches!(cli.command, Command::Dev(_)) {
        // `dev` delivers every message to its own inbox, so its log may contain addresses.
        config.log.personal_data = true;
    }
    telemetry::start(&config.log);
    let target = app::database_target(&config);
    crate::app::descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match cli.command {
            Command::Dev(args) => dev::run(config, args).await,
            Command::Serve(args) => serve::run(config, args).await,
            Command::Migrate => migrate::run(&config).await,
            Command::Release(args) => release::run(&config, args).await,
            Command::Keys(args) => keys::run(&config, args).await,
            Command::SqlGrant(args) => sql_grant::run(&config, args).await,
            Command::Tenant(args) => tenant::run(&config, args).await,
            Command::Statistics(args) => statistics::run(&config, args).await,
            Command::Retention(args) => retention::run(&config, args).await,
            Command::Doctor => doctor::run(&config).await,
            Command::Inbox(args) => inbox::run(args).await,
            Command::Healthcheck => healthcheck::run(&config).await,
            Command::Bench(options) => bench::run(options).await,
            Command::Openapi | Command::BenchSink(_) | Command::Client(_) => Ok(ExitCode::SUCCESS),
        }
    });
    result.map_err(|error| with_target(error, &target))
}
