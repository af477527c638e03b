//! Checks for conditions that stop or delay messages and events: missing workers, an old backlog, pauses, unreachable
//! destinations, held recipients, failing webhook endpoints, wrong clocks, and replicas with different settings.

use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::Report;
use crate::app::fingerprints;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::db::overview::{self, Overview, Stopped};
use crate::db::pool::server;
use crate::db::{Db, DbError, workers};

/// The backlog is reported if its oldest due message has been due for longer than this. Workers that keep up stay below
/// this time.
const BACKLOG: TimeDelta = TimeDelta::minutes(5);
/// Clock skew above this is reported.
const SKEW: TimeDelta = TimeDelta::seconds(2);

pub(super) async fn check(config: &Config, db: &Db, report: &mut Report) {
    if let Err(error) = checks(config, db, report).await {
        report.bad("service", error);
    }
}

async fn checks(config: &Config, db: &Db, report: &mut Report) -> Result<(), DbError> {
    let now = server::time(db).await?;
    clock(server::skew(db, &SystemClock).await?, report);
    let overview = overview::overview(db, now).await?;
    Report::ok("server", format!("PostgreSQL {}", overview.server_version));
    replicas(config, db, &overview, report).await?;
    stopped(&overview, report);
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
    backlog(overview.oldest_due, now, report);
    Ok(())
}

fn clock(skew: TimeDelta, report: &mut Report) {
    if skew.abs() > SKEW {
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
        Some(age) if age > BACKLOG => report.bad(
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
