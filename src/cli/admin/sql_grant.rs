//! `postrider sql-grant`: lets a role of the database server send messages with `postrider.send`.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::{Value, json};

use super::audit::AuditEntry;
use super::tenant::find_tenant;
use crate::app::{self, WithHint as _};
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::db::messages::sql_inbox::senders::{self, CreatorRow, SenderRow};
use crate::db::{Db, DbError, schema};
use crate::domain::address::Address;
use crate::domain::id::TenantId;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The role; members of it may send, too
    role: Option<String>,
    /// The tenant that the role sends for: its id or name [default: the default tenant]
    #[arg(long, value_name = "ID_OR_NAME", requires = "role")]
    tenant: Option<String>,
    /// A domain that the role may send from; may be repeated [default: any]
    #[arg(long, value_name = "DOMAIN", requires = "role", value_parser = domain)]
    sender_domain: Vec<String>,
    /// Let the role no longer send
    #[arg(long, requires = "role", conflicts_with_all = ["tenant", "sender_domain"])]
    revoke: bool,
}

/// Returns a domain as messages have it.
fn domain(text: &str) -> Result<String, String> {
    let address: Address = format!("x@{text}").parse().map_err(|error| format!("{error}"))?;
    Ok(address.domain().to_owned())
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    match &args.role {
        None => list(&db).await?,
        Some(role) if args.revoke => revoke(&db, role).await?,
        Some(role) => {
            let tenant = match &args.tenant {
                None => TenantId::DEFAULT,
                Some(text) => find_tenant(&db, text).await?,
            };
            grant(&db, role, tenant, &args.sender_domain).await?;
        }
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn list(db: &Db) -> anyhow::Result<()> {
    println!("ROLE\tTENANT\tSENDER DOMAINS");
    for row in senders::all(db).await? {
        let domains = row.sender_domains.map_or_else(|| "all".to_owned(), |domains| domains.join(","));
        println!("{}\t{}\t{domains}", row.role, TenantId(row.tenant_id));
    }
    Ok(())
}

async fn grant(db: &Db, role: &str, tenant: TenantId, domains: &[String]) -> anyhow::Result<()> {
    if !senders::has_role(db, role).await? {
        return Err(anyhow!("the database server has no role {role}"))
            .with_hint("create it first: CREATE ROLE … LOGIN");
    }
    refuse_creators(db, role).await?;
    let before = senders::get(db, role).await?.map(|row| view(&row));
    let domains = (!domains.is_empty()).then_some(domains);
    let now = SystemClock.now();
    let entry = AuditEntry::begin(db, tenant, "grant_sql_sender", role).await?;
    let granted = senders::grant(db, role, tenant, domains, now).await;
    entry.complete(&granted, before, Some(json!({"role": role, "tenant": tenant, "sender_domains": domains}))).await?;
    match granted {
        Err(error @ DbError::Refused { .. }) => {
            return Err(error).with_hint(
                "the role of Postrider may not create the function postrider.send; as an administrator: CREATE SCHEMA \
                 postrider AUTHORIZATION the_role_of_postrider",
            );
        }
        granted => granted?,
    }
    tracing::info!(event = "sql_sender_granted", role, %tenant, "let a database role send messages");
    println!("{role} may send messages with postrider.send");
    Ok(())
}

/// Fails if a role could get the rights of Postrider's role once applications call `postrider.send`. Names `role` if it is one.
async fn refuse_creators(db: &Db, role: &str) -> anyhow::Result<()> {
    let creators = senders::creators(db).await?;
    let Some(CreatorRow { role, schema }) = creators.iter().find(|row| row.role == role).or(creators.first()) else {
        return Ok(());
    };
    Err(anyhow!(
        "{role} can create objects in the schema {schema}, and could get the rights of Postrider's role, or replace \
         postrider.send"
    ))
    .with_hint(format!(
        "REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {role}; grant an administrator the role of Postrider; or give Postrider a \
         separate schema (docs/databases.md)"
    ))
}

async fn revoke(db: &Db, role: &str) -> anyhow::Result<()> {
    let Some(row) = senders::get(db, role).await? else {
        return Err(anyhow!("the role {role} may not send messages"))
            .with_hint("`postrider sql-grant` prints those that may");
    };
    let entry = AuditEntry::begin(db, TenantId(row.tenant_id), "revoke_sql_sender", role).await?;
    let revoked = senders::revoke(db, role).await;
    entry.complete(&revoked, Some(view(&row)), None).await?;
    revoked?;
    tracing::info!(event = "sql_sender_revoked", role, "let a database role no longer send messages");
    println!("{role} may no longer send messages");
    Ok(())
}

fn view(row: &SenderRow) -> Value {
    json!({"role": row.role, "tenant": TenantId(row.tenant_id), "sender_domains": row.sender_domains,
           "created_at": row.created_at})
}
