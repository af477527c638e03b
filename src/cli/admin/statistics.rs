//! `postrider statistics rebuild`: lets the workers count all events again.

use std::process::ExitCode;

use clap::Subcommand;

use super::tenant::find_tenant;
use crate::app;
use crate::config::Config;
use crate::db::{schema, statistics::rebuild};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delete the figures of the days whose events are stored, and count these events again; running workers do it
    Rebuild {
        /// Only those of this tenant and of its test keys [default: all tenants]
        #[arg(long, value_name = "ID_OR_NAME")]
        tenant: Option<String>,
    },
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    let Command::Rebuild { tenant } = args.command;
    let mut tenants = rebuild::tenants(&db).await?;
    if let Some(text) = tenant {
        let only = find_tenant(&db, &text).await?;
        tenants.retain(|known| known.live() == only);
    }
    let mut count = 0;
    for tenant in tenants {
        count += usize::from(rebuild::request(&db, tenant).await?);
    }
    println!(
        "Workers count the events of {count} tenant(s) again; `as_of` in GET /v1/statistics shows how far they are."
    );
    db.close().await;
    Ok(ExitCode::SUCCESS)
}
