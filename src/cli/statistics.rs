//! `postrider statistics rebuild`: lets the workers count all events again.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Subcommand;
use uuid::Uuid;

use crate::app::{self, WithHint as _};
use crate::config::Config;
use crate::db::{schema, statistics::rebuild};
use crate::domain::id::TenantId;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Delete the figures of the days whose events are stored, and count these events again; running workers do it
    Rebuild {
        /// Only those of this tenant, by its UUID [default: all tenants]
        #[arg(long, value_name = "ID")]
        tenant: Option<Uuid>,
    },
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    let Command::Rebuild { tenant } = args.command;
    let known = rebuild::tenants(&db).await?;
    let tenants: Vec<TenantId> = known.into_iter().filter(|known| tenant.is_none_or(|id| known.0 == id)).collect();
    if let (Some(id), true) = (tenant, tenants.is_empty()) {
        return Err(anyhow!("no event of the tenant {id} has been counted"))
            .with_hint("pass the UUID of a tenant, or leave out --tenant");
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
