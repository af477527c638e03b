//! `postrider doctor`: prints one line per check, with the fix. Exits with 1 if a check fails.

mod domains;
mod service;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use super::error::with_fix;
use crate::app;
use crate::config::Config;
use crate::db::pool::durability;
use crate::db::{Db, schema, streams};
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::smtp::{Checked, Sender, Settings, Timeouts};

/// Timeout of each step of a session with a relay.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    database(config, &mut report).await;
    relays(config, &mut report).await;
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
    if let Err(error) = db.ping().await {
        return report.bad("database", format!("{error} ({})", app::database_target(config)));
    }
    Report::ok("database", "reachable");
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
