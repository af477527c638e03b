//! `postrider retention`: shows what is deleted because of its age, and what is protected; deletes it with `--now`.

use std::process::ExitCode;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::audit::AuditEntry;
use crate::app::database::{fingerprints, restore_guard};
use crate::app::{self, WithHint as _};
use crate::clock::{DatabaseClock, SharedClock};
use crate::config::{Config, period_text};
use crate::db::pool::server;
use crate::db::retention::{Class, Periods};
use crate::db::{Db, RestoreGate, schema};
use crate::domain::id::TenantId;
use crate::domain::installation::restore::HOLD_FIX;
use crate::worker::{Decision, Deleted, PlannedWeek, Retention};

/// The action in the audit log.
const ACTION: &str = "delete_old_data";

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Delete now what the report shows, instead of within an hour
    #[arg(long)]
    now: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    let periods = app::retention_periods(config);
    if args.now && restore_guard::inspect(config, &db).await?.hold().is_some() {
        return Err(anyhow::anyhow!(
            "the restore guard holds: nothing is deleted from a database that may have been restored"
        ))
        .with_hint(HOLD_FIX);
    }
    // The services follow the database's clock too.
    let clock: SharedClock = Arc::new(DatabaseClock::default());
    clock.follow(&server::state(&db).await?.reading);
    let retention = Retention::new(db.clone(), clock.clone(), periods, Arc::new(RestoreGate::always_open()));
    let code = if args.now {
        check_settings(config, &db).await?;
        delete(&db, &retention, args.json).await?
    } else {
        report(&retention, &periods, clock.now(), args.json).await?
    };
    db.close().await;
    Ok(code)
}

/// Refuses to delete with other periods than those of the running workers: this machine may have another configuration.
async fn check_settings(config: &Config, db: &Db) -> anyhow::Result<()> {
    let differing = fingerprints::differing(config, db).await?;
    match differing.iter().find(|found| found.settings.iter().any(|name| name == "retention")) {
        Some(found) => Err(anyhow::anyhow!("the worker on {} has other settings in [retention]", found.worker.host))
            .with_hint("run the command with the worker's configuration"),
        None => Ok(()),
    }
}

async fn report(
    retention: &Retention,
    periods: &Periods,
    now: DateTime<Utc>,
    is_json: bool,
) -> anyhow::Result<ExitCode> {
    let weeks = retention.plan().await?;
    if is_json {
        let weeks: Vec<Value> = weeks.iter().map(|week| view(week, periods)).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "weeks": weeks }))?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("CLASS        WEEK              SIZE  ROWS (EST.)  ACTION   WHY");
    for week in &weeks {
        let PlannedWeek { class, stored, .. } = week;
        println!(
            "{:<12} {:<11} {:>10} {:>12}  {:<8} {}",
            class.as_str(),
            stored.week,
            size(stored.bytes),
            stored.rows,
            action(&week.decision),
            why(week, periods, now)
        );
    }
    let bytes = weeks.iter().filter(|week| week.decision == Decision::Drop).map(|week| week.stored.bytes).sum();
    println!("{} are deleted within an hour, or now with `postrider retention --now`.", size(bytes));
    Ok(ExitCode::SUCCESS)
}

async fn delete(db: &Db, retention: &Retention, is_json: bool) -> anyhow::Result<ExitCode> {
    let entry = AuditEntry::begin(db, TenantId::DEFAULT, ACTION, "all").await?;
    let done = tokio::select! {
        done = retention.once(true) => done,
        _ = tokio::signal::ctrl_c() => {
            retention.release().await?;
            anyhow::bail!("interrupted; what was deleted until then stays deleted");
        }
    };
    let after = done.as_ref().ok().map(|deleted| deleted.map_or(Value::Null, counts));
    entry.complete(&done, None, after).await?;
    let Some(deleted) = done? else {
        anyhow::bail!("another process is deleting old data now");
    };
    let Deleted { weeks, contents, rows } = deleted;
    if is_json {
        println!("{}", serde_json::to_string_pretty(&counts(deleted))?);
        return Ok(ExitCode::SUCCESS);
    }
    for (class, count) in Class::ALL.iter().zip(weeks) {
        println!("{}: {count} week(s) dropped", class.as_str());
    }
    println!("{contents} content(s) and {rows} other row(s) deleted one by one");
    Ok(ExitCode::SUCCESS)
}

fn counts(Deleted { weeks, contents, rows }: Deleted) -> Value {
    let weeks: serde_json::Map<String, Value> =
        Class::ALL.iter().zip(weeks).map(|(class, count)| (class.as_str().to_owned(), json!(count))).collect();
    json!({"weeks": weeks, "contents": contents, "rows": rows})
}

fn view(week: &PlannedWeek, periods: &Periods) -> Value {
    let PlannedWeek { class, stored, decision } = week;
    let protected: &[String] = match decision {
        Decision::Rows(reasons) | Decision::Protected(reasons) => reasons,
        Decision::Young | Decision::Drop => &[],
    };
    json!({
        "class": class.as_str(),
        "week": stored.week,
        "bytes": stored.bytes,
        "estimated_rows": stored.rows,
        "period": period_text(periods.get(*class)),
        "action": action(decision),
        "protected": protected,
    })
}

fn action(decision: &Decision) -> &'static str {
    match decision {
        Decision::Young | Decision::Protected(_) => "keep",
        Decision::Drop => "drop",
        Decision::Rows(_) => "rows",
    }
}

fn why(week: &PlannedWeek, periods: &Periods, now: DateTime<Utc>) -> String {
    match &week.decision {
        Decision::Young => {
            let period = periods.get(week.class);
            match period.0.and_then(|length| chrono::TimeDelta::from_std(length).ok()) {
                Some(length) if week.stored.week.end() + length > now => {
                    format!("until {}", (week.stored.week.end() + length).format("%Y-%m-%d"))
                }
                _ => format!("kept {}", period_text(period)),
            }
        }
        Decision::Drop => "its period has passed".into(),
        Decision::Rows(reasons) => format!("content of finished messages only: {}", reasons.join(" ")),
        Decision::Protected(reasons) => reasons.join(" "),
    }
}

/// Formats a number of bytes.
fn size(bytes: i64) -> String {
    const UNITS: [(&str, i64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let unit = UNITS.into_iter().find(|(_, length)| bytes >= *length);
    unit.map_or_else(|| format!("{bytes} B"), |(name, length)| format!("{} {name}", bytes / length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        let shown = [0, 1_023, 1 << 10, 5 << 20, 3 << 30].map(size);
        assert_eq!(shown, ["0 B", "1023 B", "1 KiB", "5 MiB", "3 GiB"]);
    }
}
