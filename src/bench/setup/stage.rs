//! Starts and stops the parts of the setup: the database, the sink and the service, in this order, because the service
//! needs the addresses of the others.

use std::sync::Arc;
use std::time::Duration;

use rustix::fs::statvfs;
use uuid::Uuid;

use super::process::{Service, Sink, run_to_end};
use super::scratch::Scratch;
use super::{backlog, keys};
use crate::bench::client::{dkim, mail, template};
use crate::bench::error::Doing as _;
use crate::bench::options::{Backlog, Options};
use crate::bench::{BenchError, progress};
use crate::db::Db;
use crate::db::bench::{DatabaseContents, bulks_are_expanded, contents};
use crate::dev::postgres::{self, Postgres};
use crate::domain::id::{MessageId, TenantId};

/// The number of messages that are first sent one at a time, while the service is idle. The messages of the load are
/// numbered after these.
pub(in crate::bench) const IDLE_MESSAGES: u64 = 30;
/// Time limit of a database call.
const CALL_TIMEOUT: Duration = Duration::from_mins(2);
/// Bytes of disk space that every run needs: the cluster and its first WAL.
const BASE_BYTES: u64 = 256 << 20;
/// Maximum bytes of WAL in the bench's Postgres.
const MAX_WAL_BYTES: u64 = 1 << 30;

/// The running database, sink and service.
pub(in crate::bench) struct Stage {
    pub scratch: Scratch,
    postgres: Option<Postgres>,
    /// The connection pool that reads the database.
    pub db: Db,
    pub sink: Option<Sink>,
    pub services: Vec<Service>,
    /// The API keys that the load is sent with in turn.
    pub keys: Arc<[String]>,
    /// The number of messages of the backlog.
    pub backlog: u64,
}

impl Stage {
    /// Starts all parts, ready for the first request.
    pub(in crate::bench) async fn start(options: &Options) -> Result<Self, BenchError> {
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
        let db = Db::new(&url, 4, CALL_TIMEOUT).doing("reach the database")?;
        let existing = check_database(&db, options).await?;
        let backlog = backlog::fill(&db, options, existing).await?;

        let sink = if options.uses_sink() { Some(Sink::start(options, IDLE_MESSAGES).await?) } else { None };
        let scopes = ["keys", "create", "--name", "bench", "--scope", "send", "--scope", "read", "--scope", "admin"];
        let key = run_to_end(&scopes, scratch.path(), &settings).await?;
        let keys = keys::create(&db, options, &key).await?;
        let settings = service_settings(options, url, sink.as_ref());
        progress::step("starting the service");
        let mut services = Vec::new();
        let arguments: &[&str] = if options.accept_only { &["serve", "--only", "api"] } else { &["serve"] };
        for _ in 0..options.replicas {
            services.push(Service::start(arguments, scratch.path(), &settings).await?);
        }
        let stage = Self { scratch, postgres, db, sink, services, keys, backlog };
        if let Some(first) = stage.services.first() {
            dkim::register(first.api, &key, mail::SENDER_DOMAIN, options.dkim).await?;
            template::publish(first.api, &key, options).await?;
        }
        Ok(stage)
    }

    /// Stops all parts in an order that loses no message, and removes the temporary directory.
    pub(in crate::bench) async fn tear_down(self) -> Result<(), BenchError> {
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
    let free = statvfs(scratch.path()).doing("read the free disk space")?;
    let free = free.f_bavail * free.f_frsize;
    // With --duration, the number of messages is not known in advance.
    let messages =
        if options.duration.is_some() && options.messages.is_none() { 1_000_000 } else { options.max_messages() };
    // A message that is rendered from a template has a plain text too.
    let bodies = u64::from(options.size) * if options.template { 2 } else { 1 };
    // The messages of a bulk share their content.
    let sharing = options.bulk.map_or(1, u64::from);
    let content = (bodies + u64::from(options.attachment)).div_ceil(sharing);
    let message_bytes = content + 2_048 + 512 * u64::from(options.recipients);
    let written = messages * message_bytes + options.backlog * 2_048;
    let needed = BASE_BYTES + written * 3 / 2 + (written * 2).min(MAX_WAL_BYTES);
    if needed > free {
        let mib = |bytes: u64| bytes >> 20;
        let (path, needed, free) = (scratch.path().display(), mib(needed), mib(free));
        return BenchError::refused(
            format!("the run needs about {needed} MiB in {path}, but only {free} MiB are free"),
            "send fewer or smaller messages, or choose another --dir",
        );
    }
    Ok(())
}

/// Refuses a database in which messages other than the backlog's are queued, and without `--yes` a database that
/// contains any messages.
async fn check_database(db: &Db, options: &Options) -> Result<DatabaseContents, BenchError> {
    let existing = contents(db, TenantId::DEFAULT, backlog::STREAM).await;
    let doing = "read what the database contains";
    let existing = existing.doing(doing)?;
    if existing.others || !bulks_are_expanded(db, MessageId(Uuid::nil())).await.doing(doing)? {
        return BenchError::refused(
            "messages wait in this database, and the service would send them to the sink of the bench",
            "use an empty database",
        );
    }
    if existing.messages && !options.yes {
        return BenchError::refused(
            "this database contains messages",
            "use an empty database, or add the bench's messages to this one with --yes",
        );
    }
    Ok(existing)
}

/// The settings of each process of the service.
fn service_settings(options: &Options, url: String, sink: Option<&Sink>) -> Vec<(&'static str, String)> {
    let mut settings = vec![
        ("DATABASE_URL", url),
        ("POSTRIDER_LISTEN", "127.0.0.1:0".to_owned()),
        ("POSTRIDER_HOSTNAME", "bench.invalid".to_owned()),
    ];
    settings.extend(dkim::settings(options.dkim));
    if options.submission {
        settings.push(("POSTRIDER_SUBMISSION__LISTEN", "127.0.0.1:0".to_owned()));
        // All connections come from this machine.
        for limit in ["POSTRIDER_SUBMISSION__CONNECTIONS", "POSTRIDER_SUBMISSION__CONNECTIONS_PER_PEER"] {
            settings.push((limit, options.connections.to_string()));
        }
    }
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

/// Returns whether the service is idle before the load starts.
pub(in crate::bench) fn is_idle(options: &Options) -> bool {
    options.backlog == 0 || options.backlog_kind != Backlog::Due
}
