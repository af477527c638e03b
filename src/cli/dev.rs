//! `postrider dev`: the whole product on one machine, with nothing to set up.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::inbox::Catcher;
use super::keys;
use super::signals::Signals;
use crate::app::{self, App, Roles};
use crate::clock::{DatabaseClock, SystemClock};
use crate::config::Config;
use crate::db::{self, Db};
use crate::dev::inbox::Inbox;
use crate::dev::postgres::{Options, Postgres};
use crate::domain::key::{Scope, Secret, hex};

/// The domain of return paths, where none is configured.
const RETURN_DOMAIN: &str = "return.postrider.test";

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where the state lives: database, inbox and dev.json
    #[arg(long, value_name = "DIR", default_value = ".postrider")]
    dir: PathBuf,
}

/// `DIR/dev.json`: what a script needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct Facts {
    api: String,
    api_key: String,
    admin_key: String,
    database_url: String,
    inbox_smtp: String,
    /// Where bounces are taken. An earlier version wrote no such thing.
    #[serde(default)]
    bounces_smtp: String,
}

pub(super) async fn run(mut config: Config, args: Args) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.dir)
        .with_context(|| format!("cannot make {}: choose another directory with --dir", args.dir.display()))?;
    // The port first: a mistake there should show before Postgres has been set up.
    drop(app::listen(config.listen).await?);
    let postgres = Postgres::start(Options { dir: args.dir.join("postgres"), durable: true }).await?;
    let done = with_postgres(&mut config, &args.dir, &postgres).await;
    let stopped = postgres.stop().await;
    done?;
    stopped?;
    Ok(ExitCode::SUCCESS)
}

async fn with_postgres(config: &mut Config, dir: &Path, postgres: &Postgres) -> anyhow::Result<()> {
    let database_url = postgres.ensure_database("postrider").await?;
    let inbox = Inbox::open(dir.join("inbox"), Arc::new(SystemClock)).await?;
    let catcher = Catcher::start(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), inbox.clone()).await?;
    if config.relay_url.is_some() {
        tracing::warn!("relay_url is not used: in `dev` the inbox catches every mail");
    }
    // Links in mail lead back here; a port that is yet to be chosen is not known.
    if config.public_url.is_none() && config.listen.port() != 0 {
        config.public_url = Some(format!("http://{}", config.listen).parse()?);
    }
    config.database.url = Some(database_url.clone().into());
    config.relay_url = Some(format!("smtp://{}?tls=none", catcher.address).into());
    config.webhooks.allow_private = true;
    if config.secret_key.is_none() {
        config.secret_key = Some(own_secret(dir)?.into());
    }
    config.return_path.domain.get_or_insert_with(|| RETURN_DOMAIN.into());
    config.inbound.listen.get_or_insert(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));

    let db = app::database(config)?;
    db::schema::migrate(&db).await?;
    let (api_key, admin_key) = own_keys(&db, dir).await?;
    db.close().await;
    let app = App::start(config, Roles::All, Arc::new(DatabaseClock::default()), Some(inbox)).await?;
    let api = format!("http://{}", app.api_address().context("the API does not listen")?);
    let bounces_smtp = app.inbound_address().context("nothing takes bounces")?.to_string();
    let inbox_smtp = catcher.address.to_string();
    let facts = Facts { api, api_key, admin_key, database_url, inbox_smtp, bounces_smtp };
    let signals = Signals::listen()?;
    write(dir, &facts)?;
    print(dir, &facts);

    signals.stop_requested().await;
    app.stop().await;
    catcher.stop().await;
    Ok(())
}

/// The keys of an earlier start where they still work, else new ones.
async fn own_keys(db: &Db, dir: &Path) -> anyhow::Result<(String, String)> {
    let earlier = std::fs::read(dir.join("dev.json")).ok().and_then(|text| serde_json::from_slice::<Facts>(&text).ok());
    let (api_key, admin_key) = earlier.map(|facts| (facts.api_key, facts.admin_key)).unzip();
    Ok((
        own_key(db, api_key, "dev", &[Scope::Send, Scope::Read]).await?,
        own_key(db, admin_key, "dev admin", &[Scope::Admin]).await?,
    ))
}

async fn own_key(db: &Db, earlier: Option<String>, name: &str, scopes: &[Scope]) -> anyhow::Result<String> {
    if let Some(earlier) = earlier {
        let row = db::keys::find(db, Secret::hash(&earlier)).await?;
        if row.is_some_and(|row| row.revoked_at.is_none()) {
            return Ok(earlier);
        }
    }
    Ok(keys::create(db, name, scopes).await?.expose().to_owned())
}

/// The secret of an earlier start, else a new one: DKIM keys are sealed with it.
fn own_secret(dir: &Path) -> anyhow::Result<String> {
    const NAME: &str = "secret_key";
    let path = dir.join(NAME);
    match std::fs::read_to_string(&path) {
        Ok(secret) => return Ok(secret.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        // A new one would lock away what this one has sealed.
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    let secret = hex(&rand::random::<[u8; 32]>());
    write_own(dir, NAME, format!("{secret}\n").as_bytes())?;
    Ok(secret)
}

/// Writes the facts.
fn write(dir: &Path, facts: &Facts) -> anyhow::Result<()> {
    let mut text = serde_json::to_vec_pretty(facts)?;
    text.push(b'\n');
    write_own(dir, "dev.json", &text)
}

/// Writes a file for this user's eyes only: it holds keys.
fn write_own(dir: &Path, name: &str, text: &[u8]) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let (path, fresh) = (dir.join(name), dir.join(format!("{name}.new")));
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(text)?;
        file.sync_all()?;
        // A script that waits for the file must never see half of it.
        std::fs::rename(&fresh, &path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn print(dir: &Path, facts: &Facts) {
    let Facts { api, api_key, inbox_smtp, bounces_smtp, .. } = facts;
    println!(
        "
Postrider is running.

  API     {api}   (documentation: {api}/docs)
  Key     {api_key}
  Inbox   {api}/inbox   (it catches every mail; SMTP on {inbox_smtp})
  Bounces {bounces_smtp}   (SMTP for the return path that a mail in the inbox has)
  State   {dir}   (facts for scripts: {dir}/dev.json)

Send a mail:

  curl -sS {api}/v1/messages -H 'Authorization: Bearer {api_key}' -H 'Content-Type: application/json' \\
    -d '{{\"from\": \"Acme <hello@acme.test>\", \"to\": \"ann@example.test\", \"subject\": \"Hello\", \"text\": \"It works.\"}}'

Read it:

  curl -sS {api}/v1/dev/inbox/1

Ctrl-C stops everything; a second start finds its data again.
",
        dir = dir.display()
    );
}
