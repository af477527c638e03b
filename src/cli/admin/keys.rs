//! `postrider keys`: creates, lists and revokes API keys of a tenant, by default of the default tenant.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::Subcommand;
use serde_json::json;

use super::audit::AuditEntry;
use super::tenant::find_tenant;
use crate::app::{self, WithHint as _};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::db::keys::{self, KeyRow, NewKey, Revocation};
use crate::db::{Db, schema};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{Cell, KeyMode, Scope, Secret};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a key and print it once; only its hash is stored
    Create {
        /// Name of the key
        #[arg(long, value_parser = name)]
        name: String,
        /// Scope: send, read, metadata, admin or operator; may be repeated [default: send and read]
        #[arg(long)]
        scope: Vec<Scope>,
        /// Create a test key, with which nothing is sent
        #[arg(long)]
        test: bool,
        #[command(flatten)]
        tenant: OfTenant,
    },
    /// Print all keys, newest first, one per line: id, name, scopes, sender domains, created, last used, state, mode
    List {
        #[command(flatten)]
        tenant: OfTenant,
    },
    /// Revoke a key; running replicas refuse it within a second
    Revoke {
        /// The key's id, as `keys list` prints it
        id: KeyId,
        #[command(flatten)]
        tenant: OfTenant,
    },
}

#[derive(Debug, clap::Args)]
struct OfTenant {
    /// The tenant's id or name [default: the default tenant]
    #[arg(long, value_name = "ID_OR_NAME")]
    tenant: Option<String>,
}

impl OfTenant {
    /// Finds the tenant.
    async fn find(&self, db: &Db) -> anyhow::Result<TenantId> {
        match &self.tenant {
            None => Ok(TenantId::DEFAULT),
            Some(text) => find_tenant(db, text).await,
        }
    }
}

fn name(text: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("a name must have 1 to 128 characters on one line".into()) }
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    match args.command {
        Command::Create { name, scope, test, tenant } => {
            let tenant = tenant.find(&db).await?;
            let scopes = if scope.is_empty() { vec![Scope::Send, Scope::Read] } else { scope };
            let mode = if test { KeyMode::Test } else { KeyMode::Live };
            let key = KeyToCreate { tenant, name: &name, scopes: &scopes, mode };
            println!("{}", create(&db, config.cell().as_ref(), key).await?.expose());
        }
        Command::List { tenant } => list(&db, tenant.find(&db).await?).await?,
        Command::Revoke { id, tenant } => revoke(&db, tenant.find(&db).await?, id).await?,
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}

/// An API key to create.
#[derive(Debug, Clone, Copy)]
pub(in crate::cli) struct KeyToCreate<'a> {
    pub tenant: TenantId,
    pub name: &'a str,
    pub scopes: &'a [Scope],
    pub mode: KeyMode,
}

/// Creates a key.
pub(in crate::cli) async fn create(db: &Db, cell: Option<&Cell>, key: KeyToCreate<'_>) -> anyhow::Result<Secret> {
    let KeyToCreate { tenant, name, scopes, mode } = key;
    if mode == KeyMode::Test && scopes.contains(&Scope::Operator) {
        return Err(anyhow!("a test key cannot have the scope operator"))
            .with_hint("leave out --test or --scope operator");
    }
    let secret = Secret::new(mode, cell, rand::random());
    let mut scope_names: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    scope_names.sort_unstable();
    scope_names.dedup();
    let now = SystemClock.now();
    let key = NewKey {
        id: KeyId::new(now),
        tenant,
        name,
        hash: Secret::hash(secret.expose()),
        mode,
        scopes: &scope_names,
        sender_domains: None,
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: now,
        expires_at: None,
    };
    let entry = AuditEntry::begin(db, tenant, "create_key", &key.id.to_string()).await?;
    let inserted = keys::insert(db, &key).await;
    let after = json!({"id": key.id, "name": name, "tenant": tenant, "mode": mode.as_str(), "scopes": scope_names,
                       "created_at": now});
    entry.complete(&inserted, None, Some(after)).await?;
    if !inserted? {
        return Err(anyhow!("there is no tenant {tenant}, or it is being deleted"));
    }
    let scopes = scope_names.join(" ");
    let (id, mode) = (key.id, mode.as_str());
    tracing::info!(event = "api_key_created", by = "cli", key = %id, %tenant, mode, scopes, "created an API key");
    Ok(secret)
}

/// Page size of the list.
const PAGE: i64 = 100;

async fn list(db: &Db, tenant: TenantId) -> anyhow::Result<()> {
    println!("ID\tNAME\tSCOPES\tSENDER DOMAINS\tCREATED\tLAST USED\tSTATE\tMODE");
    let mut after = None;
    loop {
        let rows = keys::page(db, tenant, after, PAGE).await?;
        for row in &rows {
            println!("{}", line(row));
        }
        match rows.last() {
            Some(last) if rows.len() == usize::try_from(PAGE)? => after = Some(KeyId(last.id)),
            _ => return Ok(()),
        }
    }
}

/// Formats one key as a line with columns separated by tabs, which a name cannot contain.
fn line(row: &KeyRow) -> String {
    let date = |at: chrono::DateTime<chrono::Utc>| at.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let state = match (row.revoked_at, row.expires_at) {
        (Some(at), _) => format!("revoked {}", date(at)),
        (None, Some(at)) if at <= SystemClock.now() => format!("expired {}", date(at)),
        (None, Some(at)) => format!("active until {}", date(at)),
        (None, None) => "active".to_owned(),
    };
    [
        KeyId(row.id).to_string(),
        row.name.clone(),
        row.scopes.join(","),
        row.sender_domains.as_ref().map_or_else(|| "all".into(), |domains| domains.join(",")),
        date(row.created_at),
        row.last_used_at.map_or_else(|| "never".into(), date),
        state,
        row.mode.clone(),
    ]
    .join("\t")
}

async fn revoke(db: &Db, tenant: TenantId, id: KeyId) -> anyhow::Result<()> {
    let before = keys::get(db, tenant, id).await?;
    let before = before.map(|row| json!({"name": row.name, "tenant": tenant, "mode": row.mode, "scopes": row.scopes}));
    let entry = AuditEntry::begin(db, tenant, "revoke_key", &id.to_string()).await?;
    let revoked = keys::revoke(db, tenant, id, SystemClock.now()).await;
    entry.complete(&revoked, before, None).await?;
    match revoked? {
        Revocation::Unknown => {
            return Err(anyhow!("there is no API key {id}")).with_hint("`postrider keys list` prints all keys");
        }
        Revocation::AlreadyRevoked => {}
        Revocation::Revoked => {
            tracing::info!(event = "api_key_revoked", by = "cli", key = %id, "revoked an API key");
        }
    }
    println!("{id} is revoked");
    Ok(())
}
