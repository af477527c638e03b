//! `postrider tenant`: moves a tenant to another cell by a file. Also finds the tenant that an option names.

mod export;
mod file;
mod import;
mod secrets;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Subcommand;
use serde_json::json;

use crate::app::{self, WithHint as _};
use crate::cli::admin::audit::AuditEntry;
use crate::config::Config;
use crate::db::{Db, schema, tenants};
use crate::domain::id::TenantId;

/// Minimum length of a passphrase, in characters.
const MIN_PASSPHRASE: usize = 12;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Write a tenant's settings, keys, domains, suppressions, templates, webhooks and inbound routes to a new file, encrypted
    Export(export::Args),
    /// Create the tenant of such a file in this database, all or nothing
    Import(import::Args),
}

/// Where the passphrase of the file is.
#[derive(Debug, clap::Args)]
struct Passphrase {
    /// File whose first line is the passphrase that encrypts the tenant's file, at least 12 characters
    #[arg(long, value_name = "FILE")]
    passphrase_file: PathBuf,
}

impl Passphrase {
    /// Reads the passphrase.
    fn read(&self) -> anyhow::Result<String> {
        let path = self.passphrase_file.display();
        let text = std::fs::read_to_string(&self.passphrase_file).with_context(|| format!("cannot read {path}"))?;
        let passphrase = text.lines().next().unwrap_or_default().trim();
        if passphrase.chars().count() < MIN_PASSPHRASE {
            bail!("the first line of {path} must be a passphrase of at least {MIN_PASSPHRASE} characters");
        }
        Ok(passphrase.to_owned())
    }
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    match args.command {
        Command::Export(args) => export::run(config, &db, args).await?,
        Command::Import(args) => import::run(config, &db, args).await?,
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Runs `work`, which moves the rows of a tenant, with an entry in the audit log, and prints the number of rows of each table.
async fn run_audited(
    db: &Db,
    (tenant, name): (TenantId, &str),
    action: &'static str,
    work: impl Future<Output = anyhow::Result<BTreeMap<String, u64>>>,
) -> anyhow::Result<()> {
    let entry = AuditEntry::begin(db, tenant, action, &tenant.to_string()).await?;
    let done = work.await;
    let counts = done.as_ref().ok().map(|rows| json!({"name": name, "rows": rows}));
    entry.complete(&done, None, counts).await?;
    for (table, count) in done? {
        println!("{table}\t{count}");
    }
    Ok(())
}

/// Returns the tenant with this id or name; fails if there is none, or it is being deleted.
pub(super) async fn find_tenant(db: &Db, text: &str) -> anyhow::Result<TenantId> {
    let found = match text.parse::<TenantId>() {
        Ok(id) => tenants::get(db, id).await?.filter(|row| row.deleting_at.is_none()).map(|row| TenantId(row.id)),
        Err(_) => tenants::find(db, text).await?,
    };
    found
        .ok_or_else(|| anyhow!("there is no tenant {text}"))
        .with_hint("`postrider tenants` prints all tenants (it needs a key with the scope `operator`)")
}
