//! Checks for conditions that stop or delay messages and events: missing workers, an old backlog, pauses, unreachable
//! destinations, held recipients, failing webhook endpoints, wrong clocks, and replicas with different settings.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::Report;
use crate::app;
use crate::app::database::{fingerprints, restore_guard};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::db::messages::sql_inbox::senders::CreatorRow;
use crate::db::messages::sql_inbox::{self, senders};
use crate::db::overview::{self, Overview, Stopped};
use crate::db::pool::server::{self, Connections};
use crate::db::{Db, DbError, workers};
use crate::domain::installation::restore::Finding;

pub(super) async fn check(config: &Config, db: &Db, report: &mut Report) {
    if let Err(error) = checks(config, db, report).await {
        report.bad("service", error);
    }
}

async fn checks(config: &Config, db: &Db, report: &mut Report) -> Result<(), DbError> {
    let state = server::state(db).await?;
    let now = state.reading.time;
    clock(server::skew(db, &SystemClock).await?, report);
    let overview = overview::overview(db, now).await?;
    Report::ok("server", format!("PostgreSQL {}", overview.server_version));
    restore(config, db, report).await?;
    connections(config, state.connections);
    replicas(config, db, &overview, report).await?;
    stopped(&overview, report);
    sql_inbox(db, now, report).await?;
    for endpoint in &overview.endpoints {
        let subject = format!("webhook {}", endpoint.url);
        let reason = endpoint.reason.as_deref().unwrap_or("no reason is recorded");
        let (state, fix) = if endpoint.is_disabled {
            ("disabled", "fix the endpoint, then PATCH /v1/webhooks/{id} with {\"disabled\": false}")
        } else {
            ("failing", "see GET /v1/webhooks/{id}/deliveries")
        };
        report.bad(&subject, format!("{state} since {} ({reason}): {fix}", time(endpoint.since)));
    }
    for unread in &overview.unread {
        Report::warn(unread, "could not be read in time: the database is slow");
    }
    if !overview.unread.contains(&"backlog") {
        backlog(overview.oldest_due, now, report);
    }
    Ok(())
}

/// Checks whether the restore guard holds, or would hold in a process that starts on this machine.
async fn restore(config: &Config, db: &Db, report: &mut Report) -> Result<(), DbError> {
    let guard = &config.restore_guard;
    if !guard.enabled {
        Report::warn(
            "restore guard",
            "switched off: a restored or copied database sends again what was sent already; set restore_guard.enabled",
        );
        return Ok(());
    }
    match restore_guard::inspect(config, db).await?.finding {
        Finding::Holds(hold) => report.bad("restore guard", hold.text()),
        Finding::Standby => report.bad("restore guard", "the server is a standby: connect to the primary"),
        Finding::Sends if guard.state.is_dir() => Report::ok("restore guard", "does not hold"),
        Finding::Sends => Report::warn(
            "restore guard",
            format!(
                "does not hold, but remembers nothing on this machine, because there is no directory {}: create it, or set \
                 restore_guard.state",
                guard.state.display()
            ),
        ),
    }
    Ok(())
}

fn clock(skew: TimeDelta, report: &mut Report) {
    if skew.abs() > server::MAX_SKEW {
        let direction = if skew > TimeDelta::zero() { "ahead of" } else { "behind" };
        report.bad(
            "clock",
            format!(
                "this machine's clock is {} s {direction} the database's: check time synchronisation",
                skew.abs().num_seconds()
            ),
        );
    } else {
        Report::ok("clock", "agrees with the database's");
    }
}

/// Compares the connections that the running replicas may open, if they have this configuration, with those that the
/// server allows.
fn connections(config: &Config, server: Connections) {
    // This command is counted, too, but opens few connections.
    let replicas = server.processes.saturating_sub(1).max(1);
    let (each, available) = (app::database::connections::maximum(config), server.available);
    let kind =
        if config.database.direct_url.is_some() { "direct connections beside the pooler" } else { "connections" };
    let finding = format!("{replicas} replica(s) may open {} {kind}; the server allows {available}", each * replicas);
    if each * replicas <= available {
        return Report::ok("connections", finding);
    }
    let fix = if config.database.direct_url.is_some() {
        "raise max_connections of the server, or lower the pooler's pool size"
    } else {
        "raise max_connections of the server, lower database.max_connections, or use a pooler (docs/databases.md)"
    };
    Report::warn("connections", format!("{finding}: {fix}"));
}

async fn replicas(config: &Config, db: &Db, overview: &Overview, report: &mut Report) -> Result<(), DbError> {
    let living = workers::live(db, config.delivery.lease).await?;
    match (living.len(), overview.oldest_due) {
        (0, Some(_)) => report.bad("workers", "none is running, and messages are due: start `postrider serve`"),
        (0, None) => Report::warn("workers", "none is running: start `postrider serve` before messages are sent"),
        (running, _) => Report::ok("workers", format!("{running} running")),
    }
    for fingerprints::DifferingWorker { worker, settings } in fingerprints::differing(config, db).await? {
        report.bad(
            &format!("worker on {} (process {})", worker.host, worker.pid),
            format!(
                "has a different configuration than this command ({}): give all replicas the same settings",
                settings.join(", ")
            ),
        );
    }
    Ok(())
}

/// Age of a message sent from SQL from which on it waits for too long.
const MAX_ENQUEUED: TimeDelta = TimeDelta::minutes(1);

/// Checks the messages that were sent from SQL and are not accepted, and the roles that may send. Prints nothing if all is
/// well.
async fn sql_inbox(db: &Db, now: DateTime<Utc>, report: &mut Report) -> Result<(), DbError> {
    let counts = sql_inbox::counts(db).await?;
    if let Some(oldest) = counts.oldest.filter(|oldest| now - *oldest > MAX_ENQUEUED) {
        report.bad(
            "sent from SQL",
            format!(
                "{} message(s) wait, the oldest since {}: start a process with the API",
                counts.waiting,
                time(oldest)
            ),
        );
    }
    if counts.waiting_for_quota > 0 {
        let waiting = counts.waiting_for_quota;
        Report::warn("sent from SQL", format!("{waiting} message(s) wait for the quota of their tenant"));
    }
    if counts.refused > 0 {
        let refused = counts.refused;
        report.bad(
            "sent from SQL",
            format!("{refused} message(s) were refused: see GET /v1/messages/rejected (docs/enqueue-in-sql.md)"),
        );
    }
    if senders::all(db).await?.is_empty() {
        return Ok(());
    }
    for CreatorRow { role, schema } in senders::creators(db).await? {
        report.bad(
            &format!("role {role}"),
            format!(
                "can create functions in {schema}, and could get the rights of Postrider's role, or replace postrider.send: \
                 REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC, {role}"
            ),
        );
    }
    Ok(())
}

fn stopped(overview: &Overview, report: &mut Report) {
    for paused in &overview.paused {
        Report::warn(&paused.name, describe("paused", paused, "resume it when the reason no longer applies"));
    }
    for lane in &overview.unreachable {
        report.bad(&lane.name, describe("destination unreachable", lane, "see GET /v1/lanes"));
    }
    if overview.held > 0 {
        report.bad(
            "held messages",
            format!("{} recipients wait for an operator: retry or cancel their messages", overview.held),
        );
    }
}

fn describe(state: &str, stopped: &Stopped, fix: &str) -> String {
    let mut text = format!("{state} since {}", time(stopped.since));
    if let Some(reason) = &stopped.reason {
        let _ = write!(text, " ({reason})");
    }
    text + ": " + fix
}

fn backlog(oldest: Option<DateTime<Utc>>, now: DateTime<Utc>, report: &mut Report) {
    match oldest.map(|due| now - due) {
        Some(age) if age > overview::MAX_BACKLOG => report.bad(
            "backlog",
            format!(
                "the oldest due message has waited {} minutes: see GET /v1/lanes, or add workers",
                age.num_minutes()
            ),
        ),
        Some(age) => Report::ok("backlog", format!("the oldest due message has waited {} s", age.num_seconds().max(0))),
        None => Report::ok("backlog", "no message is due"),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
