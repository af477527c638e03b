//! `postrider release`: ends a hold of the restore guard, after it has shown what waits and what becomes of it.

use std::process::ExitCode;

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::ArgGroup;
use serde_json::{Value, json};
use uuid::Uuid;

use super::audit::AuditEntry;
use crate::app::database::restore_guard::{self, Inspection};
use crate::app::{self, WithHint as _};
use crate::config::Config;
use crate::db::installation::release::{self, End, Selection, Waiting};
use crate::db::messages::sql_inbox::rejected;
use crate::db::pool::server;
use crate::db::{Db, DbError, installation, schema};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::TenantId;
use crate::domain::installation::restore::{Finding, Hold};

/// The action in the audit log.
const ACTION: &str = "release_restore_guard";

#[derive(Debug, clap::Args)]
#[allow(clippy::struct_excessive_bools, reason = "one for each option")]
#[command(group(ArgGroup::new("choice").args(["resume", "uncertain_before", "cancel"])))]
pub(in crate::cli) struct Args {
    /// Send everything that waits
    #[arg(long)]
    resume: bool,
    /// Recipients that were due before this time (RFC 3339) become `uncertain`, because they may have been sent before the
    /// restore; the others are sent
    #[arg(long, value_name = "TIME", value_parser = time)]
    uncertain_before: Option<DateTime<Utc>>,
    /// Cancel everything that was accepted before the hold
    #[arg(long)]
    cancel: bool,
    /// Apply the choice only to this stream; may be repeated. Needs --keep-holding, because the end of the hold sends the others
    #[arg(long, value_name = "NAME", requires = "keep_holding")]
    stream: Vec<String>,
    /// Apply the choice, but do not end the hold, so that another choice can follow for other streams
    #[arg(long, requires = "choice", conflicts_with = "resume")]
    keep_holding: bool,
    /// Apply the choice; without this option, the command only shows what it would change
    #[arg(long, requires = "choice")]
    yes: bool,
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    let parsed = DateTime::parse_from_rfc3339(text);
    parsed.map(|at| at.to_utc()).map_err(|_| "pass a time such as 2026-12-01T09:30:00Z".to_owned())
}

/// What to do.
#[derive(Debug)]
struct Plan {
    /// What becomes of the selected recipients; `None` sends them.
    end: Option<End>,
    selection: Selection,
    is_released: bool,
}

impl Args {
    fn plan(&self, hold: &Hold) -> Plan {
        let end = match (self.uncertain_before, self.cancel) {
            (Some(_), _) => Some(End::Uncertain),
            (None, true) => Some(End::Canceled),
            (None, false) => None,
        };
        let selection = Selection {
            accepted_before: hold.since,
            due_before: self.uncertain_before,
            streams: (!self.stream.is_empty()).then(|| self.stream.clone()),
        };
        Plan { end, selection, is_released: !self.keep_holding }
    }

    fn has_choice(&self) -> bool {
        self.resume || self.uncertain_before.is_some() || self.cancel
    }
}

pub(in crate::cli) async fn run(config: &Config, args: Args) -> anyhow::Result<ExitCode> {
    let db = app::database(config)?;
    schema::check(&db).await?;
    let inspection = restore_guard::inspect(config, &db).await?;
    if inspection.finding == Finding::Standby {
        bail!("the database server is a standby: release the guard on the primary");
    }
    let Some(hold) = inspection.hold().cloned() else {
        println!("The restore guard does not hold; there is nothing to release.");
        db.close().await;
        return Ok(ExitCode::SUCCESS);
    };
    let now = server::time(&db).await?;
    if args.uncertain_before.is_some_and(|at| at > now) {
        return Err(anyhow::anyhow!("--uncertain-before must not be in the future"))
            .with_hint(format!("the hold began at {}", text_of(hold.since)));
    }
    let plan = args.plan(&hold);
    let waiting = release::waiting(&db, &plan.selection).await?;
    let unexpanded = release::unexpanded(&db, &plan.selection).await?;
    check_streams(&args.stream, &waiting)?;
    println!("{}", hold.text());
    show_waiting(&waiting, unexpanded, &plan);
    if args.yes {
        let done = audited(config, &db, &inspection, &hold, &plan, now).await?;
        show_done(&done, &plan);
    } else {
        show_choices(&args, &hold);
    }
    db.close().await;
    Ok(ExitCode::SUCCESS)
}

fn check_streams(streams: &[String], waiting: &[Waiting]) -> anyhow::Result<()> {
    let is_unknown = |name: &&String| waiting.iter().all(|row| row.stream != **name);
    match streams.iter().find(is_unknown) {
        Some(name) => bail!("nothing waits in a stream {name:?}"),
        None => Ok(()),
    }
}

fn show_waiting(waiting: &[Waiting], unexpanded: i64, plan: &Plan) {
    println!("\nWaiting recipients, by stream:");
    if waiting.is_empty() {
        println!("  none");
    }
    for row in waiting {
        let fate = match plan.end {
            Some(End::Uncertain) => format!("; {} of them become uncertain, the others are sent", row.selected),
            Some(End::Canceled) => format!("; {} of them become canceled", row.selected),
            None => String::new(),
        };
        println!(
            "  {}: {} accepted before the hold{fate}; {} accepted since then, which are sent",
            row.stream, row.before, row.during
        );
    }
    if unexpanded > 0 {
        let fate = if plan.end.is_some() { "become canceled" } else { "are sent" };
        println!("  {unexpanded} recipients of bulks that were being accepted when the backup was made {fate}");
    }
}

fn show_choices(args: &Args, hold: &Hold) {
    if args.has_choice() {
        println!("\nNothing was changed. Add --yes to apply this choice.");
        return;
    }
    println!(
        "\nNothing was changed. Choose one, look at what it would do, and add --yes:\n  \
         --resume                    send everything that waits; what was sent after the backup is sent twice\n  \
         --uncertain-before TIME     what was due before TIME becomes uncertain, and is not sent; TIME is the moment when\n                              \
         the original stopped sending, at the latest {}\n  \
         --cancel                    cancel everything that was accepted before the hold, as in a copy for tests\n\
         With --stream NAME --keep-holding, the choice is about this stream only, and another choice can follow.",
        text_of(hold.since)
    );
}

/// What was done.
#[derive(Debug)]
struct Done {
    recipients: usize,
    bulks: u64,
    /// Messages sent from SQL that are rejected.
    enqueued: u64,
    /// Received messages that are not passed on, counted once for each recipient.
    relays: u64,
    /// Whether the hold has ended.
    is_released: bool,
}

async fn audited(
    config: &Config,
    db: &Db,
    inspection: &Inspection,
    hold: &Hold,
    plan: &Plan,
    now: DateTime<Utc>,
) -> anyhow::Result<Done> {
    let installation = inspection.observed.installation.map_or_else(|| "new".to_owned(), |id| id.to_string());
    let entry = AuditEntry::begin(db, TenantId::DEFAULT, ACTION, &installation).await?;
    let done = act(config, db, inspection, hold, plan, now).await;
    let before = json!({"held_at": hold.since, "reason": hold.reason.as_str(), "detail": hold.detail});
    let after = done.as_ref().ok().map(|done| describe(done, plan));
    entry.complete(&done, Some(before), after).await?;
    Ok(done?)
}

fn describe(done: &Done, plan: &Plan) -> Value {
    json!({
        "choice": match plan.end {
            None => "resume",
            Some(End::Uncertain) => "uncertain",
            Some(End::Canceled) => "cancel",
        },
        "due_before": plan.selection.due_before,
        "streams": plan.selection.streams,
        "recipients": done.recipients,
        "bulks": done.bulks,
        "enqueued": done.enqueued,
        "relays": done.relays,
        "released": done.is_released,
    })
}

async fn act(
    config: &Config,
    db: &Db,
    inspection: &Inspection,
    hold: &Hold,
    plan: &Plan,
    now: DateTime<Utc>,
) -> Result<Done, DbError> {
    if hold.reason.is_shared() && inspection.observed.hold.is_none() {
        // No process has found it yet. None must send while recipients are changed.
        installation::hold(db, &inspection.observed, hold).await?;
    }
    let mut done = Done { recipients: 0, bulks: 0, enqueued: 0, relays: 0, is_released: false };
    if let Some(end) = plan.end {
        let mut after = Some((Uuid::nil(), Uuid::nil()));
        while let Some(position) = after {
            let (count, next) = release::end_page(db, &plan.selection, end, position, now).await?;
            done.recipients += count;
            after = next;
        }
        done.bulks = release::cancel_unexpanded(db, &plan.selection, now).await?;
        done.enqueued = refuse_enqueued(db, &plan.selection, now).await?;
        done.relays = release::end_relays(db, &plan.selection).await?;
    }
    if plan.is_released {
        let name = config.restore_guard.installation.as_deref();
        done.is_released = release::release(db, name, inspection.observed.epoch, now).await?;
    }
    Ok(done)
}

/// Keeps messages that were sent from SQL and are not accepted as refused: they may have been accepted before the restore.
async fn refuse_enqueued(db: &Db, selection: &Selection, now: DateTime<Utc>) -> Result<u64, DbError> {
    let fault = Fault {
        pointer: String::new(),
        code: Code::NotAvailable.as_str(),
        message: "`postrider release` has kept this message from being sent, because it may have been sent before the \
                  restore"
            .into(),
    };
    let Selection { accepted_before, due_before, streams } = selection;
    rejected::refuse_before(db, *accepted_before, *due_before, streams.as_deref(), &[fault], now).await
}

fn show_done(done: &Done, plan: &Plan) {
    match plan.end {
        Some(End::Uncertain) => println!("\n{} recipients are uncertain now.", done.recipients),
        Some(End::Canceled) => println!("\n{} recipients are canceled now.", done.recipients),
        None => println!(),
    }
    if done.enqueued > 0 {
        println!("{} messages that were sent from SQL are rejected; see GET /v1/messages/rejected.", done.enqueued);
    }
    if done.relays > 0 {
        println!("{} received messages are not passed on; see GET /v1/received.", done.relays);
    }
    match (plan.is_released, done.is_released) {
        (true, true) => println!("The guard is released: workers and webhooks continue within seconds."),
        (true, false) => println!("Another command has released the guard meanwhile."),
        (false, _) => println!("The guard still holds. Run `postrider release` again to end the hold."),
    }
}

fn text_of(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use clap::Parser;

    use super::*;
    use crate::domain::installation::restore::HoldReason;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Command::try_parse_from([&["release"], args].concat()).map(|command| command.args)
    }

    #[test]
    fn choices_exclude_each_other_and_are_needed_to_act() {
        for wrong in [
            &["--yes"][..],
            &["--resume", "--cancel", "--yes"],
            &["--keep-holding"],
            &["--resume", "--keep-holding"],
            &["--cancel", "--stream", "bulk", "--yes"],
            &["--uncertain-before", "yesterday"],
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
        assert!(!parse(&[]).unwrap().has_choice() && parse(&["--cancel", "--keep-holding", "--yes"]).is_ok());
    }

    #[test]
    fn choice_is_about_what_was_accepted_before_the_hold() {
        let since = DateTime::UNIX_EPOCH + TimeDelta::hours(2);
        let hold = Hold { reason: HoldReason::Moved, since, detail: String::new() };
        let before = ["--uncertain-before", "1970-01-01T01:00:00Z"];
        assert!(parse(&before).unwrap().plan(&hold).is_released);
        let args = parse(&[&before[..], &["--stream", "bulk", "--keep-holding"]].concat()).unwrap();
        let plan = args.plan(&hold);
        assert_eq!((plan.end, plan.is_released), (Some(End::Uncertain), false));
        assert_eq!(plan.selection.accepted_before, since);
        assert_eq!(plan.selection.due_before, Some(since - TimeDelta::hours(1)));
        assert_eq!(plan.selection.streams.unwrap(), ["bulk"]);
        assert_eq!(parse(&["--resume"]).unwrap().plan(&hold).end, None);
    }
}
