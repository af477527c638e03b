//! `postrider serve`: API and worker against a database.

use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;

use super::signals::Signals;
use crate::app::{self, App, Roles};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::db::schema;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run one role only; any number of each may run on one database
    #[arg(long, value_enum)]
    only: Option<Role>,
    /// Bring the schema up to date first
    #[arg(long)]
    migrate: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Role {
    Api,
    Worker,
}

pub(super) async fn run(config: Config, args: Args) -> anyhow::Result<ExitCode> {
    if args.migrate {
        let db = app::database(&config)?;
        let ran = schema::migrate(&db).await?;
        tracing::info!(ran, "the schema is up to date");
        db.close().await;
    }
    let roles = match args.only {
        None => Roles::All,
        Some(Role::Api) => Roles::Api,
        Some(Role::Worker) => Roles::Worker,
    };
    let app = App::start(&config, roles, Arc::new(SystemClock), None).await?;
    let signals = Signals::listen()?;
    let address = app.api_address().map(tracing::field::display);
    let public = app.public_address().map(tracing::field::display);
    let inbound = app.inbound_address().map(tracing::field::display);
    tracing::info!(address, public, inbound, ?roles, version = env!("CARGO_PKG_VERSION"), "postrider is running");
    signals.stop_requested().await;
    app.stop().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}
