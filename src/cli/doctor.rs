//! `postrider doctor`: prints one line per check, with the fix. Exits with 1 if a check fails.

mod domains;
mod service;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use super::error::with_fix;
use crate::app;
use crate::clock::{Clock as _, SystemClock};
use crate::config::Config;
use crate::db::pool::durability;
use crate::db::pool::session::{self, SessionError};
use crate::db::{Db, schema, streams};
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::smtp::{Checked, Sender, Settings, Timeouts};

/// Timeout of each step of a session with a relay.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    database(config, &mut report).await;
    relays(config, &mut report).await;
    submission(config);
    attachments(config, &mut report).await;
    domains::check(config, &mut report).await;
    Ok(if report.is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug)]
struct Report {
    is_healthy: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self { is_healthy: true }
    }
}

impl Report {
    fn ok(subject: &str, finding: impl Display) {
        println!("ok    {subject}: {finding}");
    }

    /// Prints a warning, which does not fail the command.
    fn warn(subject: &str, finding: impl Display) {
        println!("WARN  {subject}: {finding}");
    }

    fn bad(&mut self, subject: &str, finding: impl Display) {
        self.is_healthy = false;
        println!("BAD   {subject}: {finding}");
    }
}

async fn database(config: &Config, report: &mut Report) {
    let db = match app::database(config) {
        Ok(db) => db,
        Err(error) => return report.bad("database", with_fix(error.as_ref())),
    };
    let sessions = session::check(&db).await;
    if let Err(error) = db.ping().await {
        return match sessions {
            // A pooler that refuses the settings of a session can be reached.
            Err(problem) if !matches!(problem, SessionError::Db(_)) => report.bad("sessions", with_fix(&problem)),
            _ => report.bad("database", format!("{error} ({})", app::database_target(config))),
        };
    }
    Report::ok("database", "reachable");
    match sessions {
        Ok(()) => Report::ok("sessions", "have the settings that Postrider needs"),
        Err(error) => report.bad("sessions", with_fix(&error)),
    }
    match schema::check(&db).await {
        Ok(()) => Report::ok("schema", "up to date"),
        Err(error) => report.bad("schema", with_fix(&error)),
    }
    disk(&db, report).await;
    match durability::check(&db).await {
        Ok(problems) if problems.is_empty() => Report::ok("durability", "fsync and full_page_writes are on"),
        Ok(problems) => problems.iter().for_each(|problem| report.bad("durability", problem)),
        Err(error) => report.bad("durability", error),
    }
    links(config, &db, report).await;
    service::check(config, &db, report).await;
    db.close().await;
}

/// Checks that the database accepts writes: writes some megabytes, and rolls back.
async fn disk(db: &Db, report: &mut Report) {
    match durability::write_probe(db).await {
        Ok(()) => Report::ok("disk", "the database accepts writes"),
        Err(error) => report.bad("disk", error),
    }
}

/// Maximum number of streams named in one line.
const STREAMS: i64 = 10;

/// Checks that unsubscribe links can be created, because messages of streams with such links wait otherwise.
async fn links(config: &Config, db: &Db, report: &mut Report) {
    let needed = [
        ("public_url (POSTRIDER_PUBLIC_URL)", config.public_url.is_none()),
        ("secret_key (POSTRIDER_SECRET_KEY)", config.secret_key.is_none()),
    ];
    let missing: Vec<&str> = needed.into_iter().filter(|(_, is_missing)| *is_missing).map(|(name, _)| name).collect();
    match streams::with_unsubscribe_links(db, STREAMS).await {
        Err(error) => report.bad("streams", error),
        Ok(names) if names.is_empty() || missing.is_empty() => {}
        Ok(names) => report.bad(
            "streams",
            format!("messages of {} wait for unsubscribe links: set {}", names.join(", "), missing.join(" and ")),
        ),
    }
}

/// Says who can sign in to submission, if it is configured.
fn submission(config: &Config) {
    let section = &config.submission;
    let has_certificate = section.cert_file.is_some() && section.key_file.is_some();
    match (section.listen, section.tls_listen) {
        (None, None) => {}
        (Some(listen), _) if !has_certificate && !listen.ip().is_loopback() => Report::warn(
            "submission",
            format!(
                "listens on {listen} without a certificate, so only programs on this machine can sign in: set \
                 submission.cert_file and submission.key_file"
            ),
        ),
        (None, Some(_)) | (Some(_), _) if has_certificate => Report::ok("submission", "accepts API keys over TLS"),
        _ => Report::ok("submission", "accepts API keys from this machine only"),
    }
}

/// Stores, reads and deletes an object, if an object store is configured.
async fn attachments(config: &Config, report: &mut Report) {
    let storage = match app::objects(config) {
        Ok(None) => return,
        Ok(Some(storage)) => storage,
        Err(error) => return report.bad("attachments", format!("{error:#}")),
    };
    let bucket = config.attachments.bucket.as_deref().unwrap_or_default();
    match storage.probe(SystemClock.now()).await {
        Ok(()) => Report::ok("attachments", format!("bucket {bucket} stores, returns and deletes objects")),
        Err(why) => report.bad(
            "attachments",
            format!(
                "bucket {bucket}: {why} (check [attachments], where attachments.credentials says where the access key comes from, and \
                 that the key may put, get, delete and list)"
            ),
        ),
    }
}

/// Prints one line for each relay of every route, in the order in which they are tried.
async fn relays(config: &Config, report: &mut Report) {
    if config.relay_url.is_none() {
        Report::ok("relay", "none: messages that match no route go direct to MX");
    }
    let sender = app::sender_settings(config).and_then(|settings| Ok(Sender::new(with_short_timeouts(settings))?));
    let sender = match sender {
        Ok(sender) => sender,
        Err(error) => return report.bad("sending", format!("{error:#}")),
    };
    for Checked { route, relay, found } in sender.check().await {
        let subject = format!("route {route}, {relay}");
        match found {
            Ok(Peer { tls: Some(tls), .. }) => Report::ok(&subject, format!("accepts messages over {tls}")),
            Ok(_) => Report::ok(
                &subject,
                "accepts messages without TLS: fine on this machine or a private network; otherwise add ?tls=required",
            ),
            Err((stage, reply)) => report.bad(&subject, format!("{} ({})", reply.text, fix(stage, &reply))),
        }
    }
}

fn with_short_timeouts(settings: Settings) -> Settings {
    let timeouts = Timeouts {
        connect: STEP_TIMEOUT,
        greeting: STEP_TIMEOUT,
        ehlo: STEP_TIMEOUT,
        tls: STEP_TIMEOUT,
        dns: STEP_TIMEOUT,
        ..settings.timeouts
    };
    Settings { timeouts, ..settings }
}

/// Returns the fix for a session that could not be established.
fn fix(stage: Stage, reply: &Reply) -> &'static str {
    let enhanced = reply.enhanced.map(|code| (code.subject, code.detail));
    match (stage, reply.code, enhanced) {
        (Stage::Connect, ..) => "check the relay's host and port, and that a firewall allows the connection",
        (_, None, Some((7, 5))) => {
            "the certificate must be valid for the host in the URL; for a private CA, set ca_file"
        }
        (_, None, Some((7, 10))) => "use the port that offers STARTTLS, or smtps://",
        (_, None, Some((7, 0))) => "choose an offered mechanism with ?auth=, and check that token_file is readable",
        (_, Some(530 | 534 | 535 | 538), _) => "check the user and the password or token in the URL",
        _ => "ask the relay's operator",
    }
}
