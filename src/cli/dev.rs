//! `postrider dev`: the whole service on one machine, without setup. No message leaves the machine.

pub(super) mod facts;
mod isolate;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;

use super::admin::keys::{self, KeyToCreate};
use super::healthcheck::reachable;
use super::inbox::{Catcher, keep_out_of_git};
use super::signals::Signals;
use crate::app::{self, App, Roles, WithHint as _};
use crate::clock::{DatabaseClock, SystemClock};
use crate::config::Config;
use crate::db::{self, Db};
use crate::dev::inbox::Inbox;
use crate::dev::postgres::{Options, Postgres};
use crate::domain::id::TenantId;
use crate::domain::key::{KeyMode, Scope, Secret};

use facts::Facts;

/// Preferred SMTP port of the inbox. Other mail catchers for development use it too.
const INBOX_PORT: u16 = 1025;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Directory for the database, the inbox and dev.json
    #[arg(long, value_name = "DIR", default_value = ".postrider")]
    dir: PathBuf,
    /// Address on which the API listens [default: `listen` of the configuration, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
}

pub(super) async fn run(mut config: Config, args: Args) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot create {}", args.dir.display()))
        .with_hint("choose another directory with --dir")?;
    keep_out_of_git(&args.dir)?;
    config.listen = args.listen.unwrap_or(config.listen);
    // Check the port before Postgres is set up, so that a port in use is reported at once.
    let listener =
        TcpListener::bind(config.listen).await.with_context(|| format!("cannot listen on {}", config.listen));
    drop(listener.with_hint("stop the program that uses it, or choose another address with --listen")?);
    let postgres = Postgres::start(Options { dir: args.dir.join("postgres"), durable: true }).await?;
    let result = with_postgres(&mut config, &args.dir, &postgres).await;
    let stopped = postgres.stop().await;
    result?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

async fn with_postgres(config: &mut Config, dir: &Path, postgres: &Postgres) -> anyhow::Result<()> {
    let database_url = postgres.ensure_database("postrider").await?;
    let inbox = Inbox::open(dir.join("inbox"), Arc::new(SystemClock)).await?;
    let catcher = start_catcher(inbox.clone()).await?;
    let ignored = isolate::isolate(config, &database_url, catcher.address);
    if !ignored.is_empty() {
        tracing::warn!(
            event = "dev_settings_ignored",
            ignored = ignored.join(", "),
            "`dev` ignores these settings: every message goes to the inbox, and webhooks to this machine only"
        );
    }
    if !config.listen.ip().is_loopback() {
        tracing::warn!(
            event = "dev_open_to_network",
            listen = %config.listen,
            "other machines can reach this address, and the inbox has no password; listen on 127.0.0.1 to close it"
        );
    }
    if config.secret_key.is_none() {
        config.secret_key = Some(facts::reuse_or_create_secret(dir)?.into());
    }

    let db = app::database(config)?;
    db::schema::migrate(&db).await?;
    let keys = reuse_or_create_keys(&db, dir).await?;
    db.close().await;
    let next_message = inbox.last() + 1;
    let app = App::start(config, Roles::All, Arc::new(DatabaseClock::default()), Some(inbox.clone())).await?;
    let api = format!("http://{}", reachable(app.api_address().context("the API does not listen")?));
    let submission_smtp = app.submission_address().context("submission does not listen")?.to_string();
    let bounces_smtp = app.inbound_address().context("the server for bounces does not listen")?.to_string();
    let inbox_smtp = catcher.address.to_string();
    let Keys { api: api_key, admin: admin_key, test: test_key } = keys;
    let facts = Facts { api, api_key, admin_key, test_key, database_url, inbox_smtp, bounces_smtp, submission_smtp };
    let signals = Signals::listen()?;
    facts.write(dir)?;
    app.show_in_dashboard(&facts.api_key);
    facts.print(dir, next_message, app.dashboard_sign_in_path(&facts.admin_key).await?.as_deref());

    signals.stop_requested().await;
    // Requests that wait for a message would delay the stop.
    inbox.stop_waiting();
    app.stop().await;
    catcher.stop().await;
    Ok(())
}

/// Starts the inbox on the preferred port if it is free, and otherwise on any free port.
async fn start_catcher(inbox: Arc<Inbox>) -> anyhow::Result<Catcher> {
    match Catcher::start(at_loopback(INBOX_PORT), inbox.clone()).await {
        Ok(catcher) => Ok(catcher),
        Err(_) => Catcher::start(at_loopback(0), inbox).await,
    }
}

fn at_loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// The API keys of `dev`.
struct Keys {
    api: String,
    admin: String,
    test: String,
}

/// Returns the API keys of an earlier start if they are still valid, and otherwise creates new ones.
async fn reuse_or_create_keys(db: &Db, dir: &Path) -> anyhow::Result<Keys> {
    let earlier = Facts::read(dir);
    let earlier = |key: fn(Facts) -> String| earlier.clone().map(key);
    let (tenant, mode) = (TenantId::DEFAULT, KeyMode::Live);
    let api = KeyToCreate { tenant, name: "dev", scopes: &[Scope::Send, Scope::Read], mode };
    let admin = KeyToCreate { name: "dev admin", scopes: &[Scope::Admin, Scope::Operator], ..api };
    let test = KeyToCreate { name: "dev test", scopes: &[Scope::Admin], mode: KeyMode::Test, ..api };
    Ok(Keys {
        api: reuse_or_create_key(db, earlier(|facts| facts.api_key), api).await?,
        admin: reuse_or_create_key(db, earlier(|facts| facts.admin_key), admin).await?,
        test: reuse_or_create_key(db, earlier(|facts| facts.test_key), test).await?,
    })
}

async fn reuse_or_create_key(db: &Db, earlier: Option<String>, key: KeyToCreate<'_>) -> anyhow::Result<String> {
    if let Some(earlier) = earlier {
        let row = db::keys::find(db, Secret::hash(&earlier)).await?;
        if row.is_some_and(|found| found.row.revoked_at.is_none()) {
            return Ok(earlier);
        }
    }
    Ok(keys::create(db, None, key).await?.expose().to_owned())
}
