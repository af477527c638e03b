//! `postrider doctor`: one line a check, with the mend. Exits with 1 where something is wrong.

use std::fmt::Display;
use std::process::ExitCode;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::app;
use crate::config::Config;
use crate::db::{durability, schema};
use crate::smtp::{Relay, TlsMode};

/// How long a relay may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let mut report = Report::default();
    database(config, &mut report).await;
    relay(config, &mut report).await;
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
        return report.bad("database", error);
    }
    Report::ok("database", "it answers");
    match schema::check(&db).await {
        Ok(()) => Report::ok("schema", "up to date"),
        Err(error) => report.bad("schema", error),
    }
    match durability::check(&db).await {
        Ok(problems) if problems.is_empty() => Report::ok("durability", "fsync and full_page_writes are on"),
        Ok(problems) => problems.iter().for_each(|problem| report.bad("durability", problem)),
        Err(error) => report.bad("durability", error),
    }
    db.close().await;
}

async fn relay(config: &Config, report: &mut Report) {
    let Some(url) = &config.relay_url else {
        return Report::ok("relay", "none: mail goes directly to the recipients' servers");
    };
    let relay: Relay = match url.expose().parse() {
        Ok(relay) => relay,
        Err(error) => return report.bad("relay", error),
    };
    let address = format!("{}:{}", relay.host, relay.port);
    match tokio::time::timeout(LIMIT, TcpStream::connect((relay.host.as_str(), relay.port))).await {
        Ok(Ok(_)) => Report::ok("relay", format!("{address} takes connections")),
        Ok(Err(error)) => report.bad("relay", format!("{address}: {error}")),
        Err(_) => report.bad("relay", format!("{address} did not answer within {} s", LIMIT.as_secs())),
    }
    if relay.tls != TlsMode::Required && !relay.implicit_tls {
        Report::ok("relay TLS", "not required: fine on this machine or a private network; else add ?tls=required");
    }
}
