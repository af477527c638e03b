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
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    database(config, &mut report).await;
    relays(config, &mut report).await;
    domains::check(config, &mut report).await;
    Ok(if report.is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug)]
struct Report {
    is_well: bool,
}

impl Default for Report {
    fn default() -> Self {
        Self { is_well: true }
    }
}

impl Report {
    fn ok(what: &str, finding: impl Display) {
        println!("ok    {what}: {finding}");
    }

    /// Prints a warning, which does not fail the command.
    fn warn(what: &str, finding: impl Display) {
        println!("WARN  {what}: {finding}");
    }

    fn bad(&mut self, what: &str, finding: impl Display) {
        self.is_well = false;
        println!("BAD   {what}: {finding}");
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

/// Writes about as much as in a busy minute, and rolls it back.
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
    match streams::linking(db, STREAMS).await {
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
    let sender = app::sender_settings(config).and_then(|settings| Ok(Sender::new(within_limit(settings))?));
    let sender = match sender {
        Ok(sender) => sender,
        Err(error) => return report.bad("sending", format!("{error:#}")),
    };
    for Checked { route, relay, found } in sender.check().await {
        let what = format!("route {route}, {relay}");
        match found {
            Ok(Peer { tls: Some(tls), .. }) => Report::ok(&what, format!("accepts messages over {tls}")),
            Ok(_) => Report::ok(
                &what,
                "accepts messages without TLS: fine on this machine or a private network; otherwise add ?tls=required",
            ),
            Err((stage, reply)) => report.bad(&what, format!("{} ({})", reply.text, fix(stage, &reply))),
        }
    }
}

fn within_limit(settings: Settings) -> Settings {
    let timeouts =
        Timeouts { connect: LIMIT, greeting: LIMIT, ehlo: LIMIT, tls: LIMIT, dns: LIMIT, ..settings.timeouts };
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
