//! Starts and stops everything that takes part: the database, the sink and the service, in this order, because each
//! needs the address of the one before.

use std::time::Duration;

use rustix::fs::statvfs;

use super::error::Doing as _;
use super::options::{Backlog, Options};
use super::process::{Service, Sink, run_to_end};
use super::scratch::Scratch;
use super::{BenchError, backlog, dkim, mail, progress};
use crate::db::Db;
use crate::db::bench::{Holding, holding};
use crate::dev::postgres::{self, Postgres};
use crate::domain::id::TenantId;

/// Messages that are sent one at a time first, while the service is idle. The numbers of the load follow theirs.
pub(super) const IDLE_MAILS: u64 = 30;
/// Time limit of a database call.
const ASK: Duration = Duration::from_mins(2);
/// Disk space that is needed in any case: the cluster and its first WAL.
const BASE: u64 = 256 << 20;
/// Maximum size of the WAL in the bench's Postgres.
const WAL: u64 = 1 << 30;

/// Everything that takes part.
pub(super) struct Stage {
    pub scratch: Scratch,
    postgres: Option<Postgres>,
    /// Reads the database.
    pub db: Db,
    pub sink: Option<Sink>,
    pub services: Vec<Service>,
    /// An API key with every scope.
    pub key: String,
    /// Messages of the backlog.
    pub backlog: u64,
}

impl Stage {
    /// Starts everything, ready for the first request.
    pub(super) async fn set(options: &Options) -> Result<Self, BenchError> {
        let scratch = Scratch::new(options.dir.as_deref())?;
        let (postgres, url) = if let Some(url) = &options.database_url {
            (None, url.clone())
        } else {
            check_disk(options, &scratch)?;
            progress::step("starting Postgres");
            let doing = "start a Postgres";
            let started = postgres::Options { dir: scratch.postgres(), durable: true };
            let postgres = Postgres::start(started).await.doing(doing)?;
            let url = postgres.ensure_database("bench").await.doing(doing)?;
            (Some(postgres), url)
        };
        let settings = vec![("DATABASE_URL", url.clone())];
        run_to_end(&["migrate"], scratch.path(), &settings).await?;
        let db = Db::new(&url, 4, ASK).doing("reach the database")?;
        let there = check_database(&db, options).await?;
        let backlog = backlog::fill(&db, options, there).await?;

        let sink = if options.counts() { Some(Sink::start(options, IDLE_MAILS).await?) } else { None };
        let scopes = ["keys", "create", "--name", "bench", "--scope", "send", "--scope", "read", "--scope", "admin"];
        let key = run_to_end(&scopes, scratch.path(), &settings).await?;
        let settings = service_settings(options, url, sink.as_ref());
        progress::step("starting the service");
        let mut services = Vec::new();
        let arguments: &[&str] = if options.accept_only { &["serve", "--only", "api"] } else { &["serve"] };
        for _ in 0..options.replicas {
            services.push(Service::start(arguments, scratch.path(), &settings).await?);
        }
        let stage = Self { scratch, postgres, db, sink, services, key, backlog };
        if let Some(first) = stage.services.first() {
            dkim::register(first.api, &stage.key, mail::SENDER_DOMAIN, options.dkim).await?;
        }
        Ok(stage)
    }

    /// Stops what was started, in the order that loses nothing, and removes what was written.
    pub(super) async fn clear(self) -> Result<(), BenchError> {
        for service in self.services {
            service.stop().await;
        }
        if let Some(sink) = self.sink {
            sink.stop().await;
        }
        self.db.close().await;
        let stopped = match self.postgres {
            Some(postgres) => postgres.stop().await.doing("stop Postgres"),
            None => Ok(()),
        };
        self.scratch.remove()?;
        stopped
    }
}

/// Refuses a run that would fill the disk.
fn check_disk(options: &Options, scratch: &Scratch) -> Result<(), BenchError> {
    let free = statvfs(scratch.path()).doing("read how much disk space is free")?;
    let free = free.f_bavail * free.f_frsize;
    // With --duration, the number of messages is not known in advance.
    let mails = if options.duration.is_some() && options.messages.is_none() { 1_000_000 } else { options.most() };
    let own = u64::from(options.size) + u64::from(options.attachment) + 2_048 + 512 * u64::from(options.recipients);
    let written = mails * own + options.backlog * 2_048;
    let needed = BASE + written * 3 / 2 + (written * 2).min(WAL);
    if needed > free {
        let mib = |octets: u64| octets >> 20;
        let (path, needed, free) = (scratch.path().display(), mib(needed), mib(free));
        return BenchError::refused(
            format!("this needs about {needed} MiB in {path}, and {free} MiB are free"),
            "send fewer or smaller messages, or choose another --dir",
        );
    }
    Ok(())
}

/// Refuses to send other messages to the sink, and to use a database with messages without `--yes`.
async fn check_database(db: &Db, options: &Options) -> Result<Holding, BenchError> {
    let there = holding(db, TenantId::DEFAULT, backlog::STREAM).await;
    let there = there.doing("read what the database contains")?;
    if there.others {
        return BenchError::refused(
            "messages wait in this database, and the bench would send them to its sink",
            "use an empty database",
        );
    }
    if there.messages && !options.yes {
        return BenchError::refused(
            "this database has messages in it",
            "use an empty one, or add the bench's messages to them with --yes",
        );
    }
    Ok(there)
}

/// The settings of each process of the service.
fn service_settings(options: &Options, url: String, sink: Option<&Sink>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("DATABASE_URL", url),
        ("POSTRIDER_LISTEN", "127.0.0.1:0".to_owned()),
        ("POSTRIDER_HOSTNAME", "bench.invalid".to_owned()),
    ];
    settings.extend(dkim::settings(options.dkim));
    let dns = sink.and_then(|sink| Some((sink, sink.dns?)));
    if let Some((sink, dns)) = dns {
        settings.push(("POSTRIDER_DNS", dns.to_string()));
        settings.push(("POSTRIDER_MX_PORT", sink.smtp.port().to_string()));
        settings.push(("POSTRIDER_DELIVERY__ALLOW_LOOPBACK_MX", "true".to_owned()));
        return settings;
    }
    let address = match (&options.relay, sink) {
        (Some(relay), _) => relay.clone(),
        (None, Some(sink)) => sink.smtp.to_string(),
        // No worker runs.
        (None, None) => "127.0.0.1:9".to_owned(),
    };
    let url = if address.contains("://") { address } else { format!("smtp://{address}?tls=none") };
    settings.push(("POSTRIDER_RELAY_URL", url));
    settings
}

/// Whether the service has nothing to do before the load begins.
pub(super) fn is_idle(options: &Options) -> bool {
    options.backlog == 0 || options.backlog_kind != Backlog::Due
}
