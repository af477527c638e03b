//! `postrider keys create`: a new API key, alone, on standard output.

use std::process::ExitCode;

use clap::Subcommand;

use crate::app;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::db::keys::{self, NewKey};
use crate::db::{Db, schema};
use crate::domain::id::{KeyId, TenantId};
use crate::domain::key::{Scope, Secret};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print it: it is shown once and never stored
    Create {
        /// What you call it
        #[arg(long, value_parser = name)]
        name: String,
        /// What it allows: send, read or admin; may be repeated [default: send and read]
        #[arg(long)]
        scope: Vec<Scope>,
    },
}

fn name(text: &str) -> Result<String, String> {
    let fits = (1..=128).contains(&text.chars().count()) && !text.contains(char::is_control);
    if fits { Ok(text.to_owned()) } else { Err("a name has 1 to 128 characters on one line".into()) }
}

pub(super) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let Command::Create { name, scope } = args.command;
    let db = app::database(config)?;
    schema::check(&db).await?;
    let scopes = if scope.is_empty() { vec![Scope::Send, Scope::Read] } else { scope };
    println!("{}", create(&db, &name, &scopes).await?.expose());
    db.close().await;
    Ok(ExitCode::SUCCESS)
}

/// Makes a key of the default tenant.
pub(super) async fn create(db: &Db, name: &str, scopes: &[Scope]) -> anyhow::Result<Secret> {
    let secret = Secret::from_bytes(rand::random());
    let mut words: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    words.sort_unstable();
    words.dedup();
    let now = SystemClock.now();
    let key = NewKey {
        id: KeyId::new(now),
        tenant: TenantId::DEFAULT,
        name,
        hash: Secret::hash(secret.expose()),
        scopes: &words,
        sender_domains: None,
        created_at: now,
        expires_at: None,
    };
    keys::insert(db, &key).await?;
    Ok(secret)
}
