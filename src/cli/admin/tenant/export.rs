//! `postrider tenant export`: writes a tenant to a file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};

use super::file::{Record, Writer};
use super::{Passphrase, find_tenant, run_audited, secrets};
use crate::app::WithHint as _;
use crate::config::Config;
use crate::db::tenants::moving::{Export, MovedTable};
use crate::db::{Db, tenants};
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::Keyring;

/// After how many rows the progress is printed.
const PROGRESS: u64 = 100_000;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The tenant's id or name
    tenant: String,
    /// The file to create; only its owner may read it
    file: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
}

pub(super) async fn run(config: &Config, db: &Db, args: Args) -> anyhow::Result<()> {
    let tenant = find_tenant(db, &args.tenant).await?;
    if tenant == TenantId::DEFAULT {
        return Err(anyhow!("the default tenant cannot be moved: every cell has one with the same id"))
            .with_hint("give each customer a separate tenant (docs/tenants.md)");
    }
    let name = tenants::get(db, tenant).await?.map(|row| row.name).unwrap_or_default();
    let passphrase = args.passphrase.read()?;
    let path = args.file.display();
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.file);
    let file = file.with_context(|| format!("cannot create {path}"))?;
    let keyring = config.keyring();
    let written = write(db, tenant, &name, keyring.as_ref(), &file, &passphrase);
    let exported = run_audited(db, (tenant, &name), "export_tenant", written).await;
    if exported.is_err() {
        // Incomplete, or not in the audit log.
        let _ = std::fs::remove_file(&args.file);
    }
    exported?;
    println!("exported {tenant} ({name}) to {path}");
    Ok(())
}

/// Writes everything, and returns the number of rows of each table.
async fn write(
    db: &Db,
    tenant: TenantId,
    name: &str,
    keyring: Option<&Keyring>,
    file: &File,
    passphrase: &str,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut writer = Writer::new(BufWriter::new(file), passphrase)?;
    let mut export = Export::begin(db).await?;
    let mut feeds = BTreeMap::new();
    for owner in [tenant, tenant.test()] {
        if let Some(seq) = export.last_seq(owner).await? {
            feeds.insert(owner, seq);
        }
    }
    writer.write(&Record::Start { tenant, name: name.to_owned(), feeds: feeds.clone() })?;
    let mut counts = BTreeMap::new();
    // The live tenant first: a change of its streams would be copied to its test tenant.
    for owner in [tenant, tenant.test()].into_iter().filter(|owner| feeds.contains_key(owner)) {
        for table in MovedTable::ALL {
            let mut after = None;
            loop {
                let mut rows = export.page(table, owner, after).await?;
                after = rows.last().cloned();
                if after.is_none() {
                    break;
                }
                for row in &mut rows {
                    secrets::decrypt(table, row, keyring)?;
                }
                let count: &mut u64 = counts.entry(table.as_str().to_owned()).or_default();
                let before = *count / PROGRESS;
                *count += u64::try_from(rows.len())?;
                if *count / PROGRESS > before {
                    eprintln!("{count} {} so far", table.as_str());
                }
                writer.write(&Record::Rows { table: table.as_str().to_owned(), rows })?;
            }
        }
    }
    writer.write(&Record::End { rows: counts.clone() })?;
    writer.finish()?.into_inner().map_err(|error| anyhow!("{error}"))?.sync_all()?;
    Ok(counts)
}
