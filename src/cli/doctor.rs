//! `postrider doctor`: one line a check, with the mend. Exits with 1 where something is wrong.

mod domains;
mod service;

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use crate::app;
use crate::config::Config;
use crate::db::pool::durability;
use crate::db::{Db, schema, streams};
use crate::domain::outcome::{Peer, Reply, Stage};
use crate::smtp::{Checked, Sender, Settings, Timeouts};

/// How long a relay may take to answer.
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

    /// Worth a look, and no reason to fail.
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
        Err(error) => return report.bad("database", format!("{error:#}")),
    };
    if let Err(error) = db.ping().await {
        return report.bad("database", format!("{error} ({})", app::database_target(config)));
    }
    Report::ok("database", "it answers");
    match schema::check(&db).await {
        Ok(()) => Report::ok("schema", "up to date"),
        Err(error) => report.bad("schema", error),
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

/// Writes as much as a busy minute does, and takes it back.
async fn disk(db: &Db, report: &mut Report) {
    match durability::write_probe(db).await {
        Ok(()) => Report::ok("disk", "the database takes writes"),
        Err(error) => report.bad("disk", error),
    }
}

/// Streams that are told of by name.
const STREAMS: i64 = 10;

/// Mail of a stream that asks for links to unsubscribe by waits where none can be made.
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
            format!("mail of {} waits for links to unsubscribe by: set {}", names.join(", "), missing.join(" and ")),
        ),
    }
}

/// One line a relay of every route, in the order in which they are asked.
async fn relays(config: &Config, report: &mut Report) {
    if config.relay_url.is_none() {
        Report::ok("relay", "none: mail that no route takes goes directly to the recipients' servers");
    }
    let sender = app::sender_settings(config).and_then(|settings| Ok(Sender::new(within_limit(settings))?));
    let sender = match sender {
        Ok(sender) => sender,
        Err(error) => return report.bad("sending", format!("{error:#}")),
    };
    for Checked { route, relay, found } in sender.check().await {
        let what = format!("route {route}, {relay}");
        match found {
            Ok(Peer { tls: Some(tls), .. }) => Report::ok(&what, format!("takes mail over {tls}")),
            Ok(_) => Report::ok(
                &what,
                "takes mail in plain text: fine on this machine or a private network; else add ?tls=required",
            ),
            Err((stage, reply)) => report.bad(&what, format!("{} ({})", reply.text, mend(stage, &reply))),
        }
    }
}

fn within_limit(settings: Settings) -> Settings {
    let timeouts =
        Timeouts { connect: LIMIT, greeting: LIMIT, ehlo: LIMIT, tls: LIMIT, dns: LIMIT, ..settings.timeouts };
    Settings { timeouts, ..settings }
}

/// What an operator can do about a session that could not be had.
fn mend(stage: Stage, reply: &Reply) -> &'static str {
    let enhanced = reply.enhanced.map(|code| (code.subject, code.detail));
    match (stage, reply.code, enhanced) {
        (Stage::Connect, ..) => "check the relay's host and port, and whether a firewall lets us out",
        (_, None, Some((7, 5))) => {
            "the certificate must be valid for the host in the URL; name the authority of one's own in ca_file"
        }
        (_, None, Some((7, 10))) => "use the port that offers STARTTLS, or smtps://",
        (_, None, Some((7, 0))) => "choose what it offers with ?auth=, and see that token_file can be read",
        (_, Some(530 | 534 | 535 | 538), _) => "check user and password or token in the URL",
        _ => "ask whoever runs the relay",
    }
}
