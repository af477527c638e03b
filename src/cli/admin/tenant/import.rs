//! `postrider tenant import`: creates the tenant of a file, in one transaction.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow, bail};
use chrono::SecondsFormat;
use serde_json::{Value, json};

use super::file::{Reader, Record};
use super::{Passphrase, run_audited, secrets};
use crate::app::WithHint as _;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::db::tenants::moving::{Import, MovedTable};
use crate::db::{Db, tenants, webhooks};
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::Keyring;
use crate::domain::installation::restore::SKIPPED_EVENT_NUMBERS;
use crate::domain::key::Scope;
use crate::domain::tenant::{NAME, check_name};

/// How many event numbers are skipped. Not as many as after a restore, so that the numbers of this cell differ from those of the old
/// cell after a restore there, too.
const SKIPPED_NUMBERS: i64 = 2 * SKIPPED_EVENT_NUMBERS;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file of `postrider tenant export`
    file: PathBuf,
    #[command(flatten)]
    passphrase: Passphrase,
    /// Another name for the tenant, if a tenant of this cell has its name
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// The tenant was imported before: add the suppressions that are missing, and change nothing else
    #[arg(long, conflicts_with = "name")]
    suppressions_only: bool,
}

fn name(text: &str) -> Result<String, String> {
    if !NAME.contains(&text.chars().count()) || text.contains(char::is_control) {
        return Err("a name must have 1 to 128 characters on one line".into());
    }
    check_name(text).map(|()| text.to_owned()).map_err(str::to_owned)
}

/// What is imported, and how rows change on the way.
struct Plan<'a> {
    tenant: TenantId,
    name: String,
    /// The number after which the event numbers of each tenant continue.
    feeds: BTreeMap<TenantId, i64>,
    keyring: Option<&'a Keyring>,
    is_webhook_sealed: bool,
    suppressions_only: bool,
}

pub(super) async fn run(config: &Config, db: &Db, args: Args) -> anyhow::Result<()> {
    let path = args.file.display().to_string();
    let passphrase = args.passphrase.read()?;
    let file = File::open(&args.file).with_context(|| format!("cannot read {path}"))?;
    let mut reader = Reader::new(BufReader::new(file), &passphrase).with_context(|| path.clone())?;
    let Record::Start { tenant, name, feeds } = reader.read().with_context(|| path.clone())? else {
        bail!("{path}: line 2 is not the first record of a tenant");
    };
    if tenant.is_test() || feeds.keys().any(|owner| owner.live() != tenant) {
        bail!("{path}: line 2 names another tenant than {tenant}");
    }
    let keyring = config.keyring();
    let plan = Plan {
        tenant,
        name: args.name.unwrap_or(name),
        // The tenant's events may go on in the other cell for a while. Webhooks and readers would take a number that both
        // cells use for the same event.
        feeds: feeds.into_iter().map(|(owner, seq)| (owner, seq.saturating_add(SKIPPED_NUMBERS))).collect(),
        keyring: keyring.as_ref(),
        is_webhook_sealed: webhooks::secrets::can_encrypt(db).await?,
        suppressions_only: args.suppressions_only,
    };
    check_tenant(db, &plan).await?;
    let imported =
        async { import(db, &plan, &mut reader).await.with_context(|| format!("{path}: nothing was imported")) };
    run_audited(db, (tenant, &plan.name), "import_tenant", imported).await?;
    println!("imported {tenant} ({})", plan.name);
    Ok(())
}

/// Checks that the tenant does not exist, or does if only suppressions are added.
async fn check_tenant(db: &Db, plan: &Plan<'_>) -> anyhow::Result<()> {
    let tenant = plan.tenant;
    match tenants::get(db, tenant).await? {
        Some(row) if row.deleting_at.is_some() => {
            bail!("{tenant} was deleted from this database, and its id is not used again; nothing was imported")
        }
        Some(_) if plan.suppressions_only => Ok(()),
        Some(_) => Err(anyhow!("{tenant} exists in this database already; nothing was imported"))
            .with_hint("to add the suppressions that are missing: --suppressions-only"),
        None if plan.suppressions_only => {
            Err(anyhow!("there is no tenant {tenant} in this database")).with_hint("leave out --suppressions-only")
        }
        None => match tenants::find(db, &plan.name).await? {
            Some(other) => Err(anyhow!("the `name` {} belongs to {other}; nothing was imported", plan.name))
                .with_hint("choose another name with --name"),
            None => Ok(()),
        },
    }
}

/// Inserts the rows of the file, and returns the number of inserted rows of each table.
async fn import(
    db: &Db,
    plan: &Plan<'_>,
    reader: &mut Reader<BufReader<File>>,
) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut import = Import::begin(db).await?;
    let (mut read, mut inserted) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    loop {
        match reader.read()? {
            Record::Start { .. } => bail!("the file has two first records"),
            Record::Rows { table: name, mut rows } => {
                let table =
                    MovedTable::from_name(&name).ok_or_else(|| anyhow!("the file has rows of a table `{name}`"))?;
                *read.entry(name.clone()).or_default() += u64::try_from(rows.len())?;
                if plan.suppressions_only {
                    let tenant = plan.tenant.0;
                    rows.retain(|row| {
                        table == MovedTable::Suppressions && secrets::uuid(row, "tenant_id").ok() == Some(tenant)
                    });
                    if rows.is_empty() {
                        continue;
                    }
                }
                if table == MovedTable::Keys {
                    rows.retain_mut(remove_operator_scope);
                }
                for row in &mut rows {
                    plan.adapt(table, row).with_context(|| format!("a row of `{name}`"))?;
                }
                let rows =
                    import.insert(table, Value::Array(rows)).await.with_context(|| format!("rows of `{name}`"))?;
                *inserted.entry(name).or_default() += rows;
            }
            Record::End { rows } if rows == read => break,
            Record::End { rows } => bail!("the file has {read:?} rows, and should have {rows:?}"),
        }
    }
    if !plan.suppressions_only {
        if let Some(domain) = import.taken_domain(plan.tenant).await? {
            return Err(anyhow!("an inbound route is for the domain {domain}, which belongs to another tenant of this cell"))
                .with_hint("delete the inbound routes of the domain in one of the two cells; if in the old one, export the tenant again");
        }
        for (owner, seq) in &plan.feeds {
            import.start_feed(*owner, *seq).await?;
        }
    }
    import.commit().await?;
    Ok(inserted)
}

impl Plan<'_> {
    /// Changes what is different in this cell.
    fn adapt(&self, table: MovedTable, row: &mut Value) -> anyhow::Result<()> {
        let column = if table == MovedTable::Tenants { "id" } else { "tenant_id" };
        let owner = TenantId(secrets::uuid(row, column)?);
        let cursor = self.feeds.get(&owner).copied();
        let cursor = cursor.ok_or_else(|| anyhow!("the field `{column}` names another tenant, {owner}"))?;
        secrets::encrypt(table, row, self.keyring, self.is_webhook_sealed)?;
        let changes = match table {
            MovedTable::Tenants if owner == self.tenant => json!({"name": self.name}),
            // Their limits begin afresh.
            MovedTable::Streams => json!({"open_at": "-infinity", "next_turn_at": "-infinity"}),
            // The records that a domain needs name the host of this cell.
            MovedTable::Domains => json!({"check_at": SystemClock.now().to_rfc3339_opts(SecondsFormat::Micros, true)}),
            MovedTable::WebhookEndpoints => json!({
                "cursor": cursor, "open_at": "-infinity", "lease": null, "failures": 0, "failing_since": null,
                "last_error": null
            }),
            _ => return Ok(()),
        };
        if let (Some(row), Value::Object(changes)) = (row.as_object_mut(), changes) {
            row.extend(changes);
        }
        Ok(())
    }
}

/// Removes the scope `operator` from an API key: it is about all tenants of a cell. Returns whether the key has other scopes.
fn remove_operator_scope(key: &mut Value) -> bool {
    let Some(scopes) = key.get_mut("scopes").and_then(Value::as_array_mut) else { return true };
    scopes.retain(|scope| scope.as_str() != Some(Scope::Operator.as_str()));
    !scopes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operator_scope_is_removed() {
        for (scopes, expected) in [
            (json!(["send", "read"]), Some(json!(["send", "read"]))),
            (json!(["operator", "read"]), Some(json!(["read"]))),
            (json!(["operator"]), None),
        ] {
            let mut key = json!({"scopes": scopes});
            let remains = remove_operator_scope(&mut key);
            assert_eq!(remains.then(|| key["scopes"].clone()), expected);
        }
    }
}
