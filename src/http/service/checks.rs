//! What stops or delays messages and events, from what was read. The same checks as `postrider doctor` makes of the service.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use url::Url;

use super::view::{CheckView, WorkerView};
use crate::db::overview::{Endpoint, MAX_BACKLOG, Overview, Stopped};
use crate::db::pool::server::MAX_SKEW;
use crate::db::service_metrics::Figures;
use crate::domain::id::{EndpointId, TenantId};

/// An older snapshot is reported.
const MAX_SNAPSHOT_SECONDS: f64 = 900.0;
/// Older figures are reported.
const MAX_FIGURES_AGE: Duration = Duration::from_mins(10);

/// What was read for the checks.
pub(super) struct Findings {
    pub overview: Overview,
    pub workers: Vec<WorkerView>,
    /// What puts accepted messages at risk.
    pub durability: Vec<String>,
    /// The figures of the service and their age, if they were computed.
    pub figures: Option<(Figures, Duration)>,
    /// Why the restore guard lets nothing be sent, in sentences; `None` if it does not hold.
    pub restore: Option<String>,
    /// How far this machine's clock is ahead of the database's.
    pub clock_skew: TimeDelta,
    pub now: DateTime<Utc>,
}

impl Findings {
    /// Returns the results of all checks, faults first.
    pub(super) fn checks(&self) -> Vec<CheckView> {
        let restore = self.restore.iter().map(|problem| check("restore guard", "bad", problem.as_str()));
        let mut checks: Vec<CheckView> = restore.collect();
        checks.extend([self.clock(), self.workers(), self.backlog(), self.durability(), self.held()]);
        checks.retain(|check| !self.overview.unread.contains(&check.name.as_str()));
        checks.extend(
            self.overview
                .unread
                .iter()
                .map(|unread| check(*unread, "warn", "Could not be read in time: the database is slow.")),
        );
        checks.extend(self.differing());
        checks.extend(
            self.overview
                .paused
                .iter()
                .map(|one| stopped(one, "warn", "Paused", "resume it when the reason no longer applies")),
        );
        checks.extend(self.overview.unreachable.iter().map(|one| {
            stopped(one, "bad", "The destination is unreachable", "fix it, or reset the lane once it is fixed")
        }));
        checks.extend(self.overview.endpoints.iter().map(endpoint));
        checks.extend(self.database());
        checks.sort_by_key(|check| match check.status {
            "bad" => 0,
            "warn" => 1,
            _ => 2,
        });
        checks
    }

    fn clock(&self) -> CheckView {
        if self.clock_skew.abs() <= MAX_SKEW {
            return check("clock", "ok", "Agrees with the database's.");
        }
        let direction = if self.clock_skew > TimeDelta::zero() { "ahead of" } else { "behind" };
        let seconds = self.clock_skew.abs().num_seconds();
        let finding =
            format!("This machine's clock is {seconds} s {direction} the database's: check time synchronisation.");
        check("clock", "bad", finding)
    }

    fn workers(&self) -> CheckView {
        let alive = self.workers.iter().filter(|worker| worker.status == "alive").count();
        match (alive, self.overview.oldest_due) {
            (0, Some(_)) => check("workers", "bad", "None is running, and messages are due: start `postrider serve`."),
            (0, None) => check("workers", "warn", "None is running: start `postrider serve` before messages are sent."),
            (running, _) => check("workers", "ok", format!("{running} running.")),
        }
    }

    fn differing(&self) -> impl Iterator<Item = CheckView> {
        self.workers.iter().filter(|worker| !worker.differing_settings.is_empty()).map(|worker| {
            let settings = worker.differing_settings.join(", ");
            let finding = format!("Has other settings than the newest worker ({settings}): give all the same.");
            check(format!("worker on {} (process {})", worker.host, worker.pid), "bad", finding)
        })
    }

    fn backlog(&self) -> CheckView {
        let Some(due) = self.overview.oldest_due else { return check("backlog", "ok", "No message is due.") };
        let age = self.now - due;
        if age > MAX_BACKLOG {
            let finding = format!(
                "The oldest due message has waited {} min: see what limits its lane (`GET /v1/lanes`), or add workers.",
                age.num_minutes()
            );
            return check("backlog", "bad", finding);
        }
        check("backlog", "ok", format!("The oldest due message has waited {} s.", age.num_seconds().max(0)))
    }

    fn durability(&self) -> CheckView {
        if self.durability.is_empty() {
            return check("durability", "ok", "`fsync` and `full_page_writes` are on.");
        }
        check("durability", "bad", format!("{}.", self.durability.join("; ")))
    }

    fn held(&self) -> CheckView {
        match self.overview.held {
            0 => check("held messages", "ok", "None."),
            held => {
                let finding = format!("{held} recipients wait for an operator: release or cancel their messages.");
                check("held messages", "bad", finding)
            }
        }
    }

    /// Checks the figures that one process computes.
    fn database(&self) -> Vec<CheckView> {
        let Some((figures, age)) = &self.figures else {
            return vec![check("figures", "warn", "Not measured yet; they follow within a minute of the start.")];
        };
        let mut checks = Vec::new();
        if *age > MAX_FIGURES_AGE {
            let finding = format!("Measured {} min ago: see the log for the reason.", age.as_secs() / 60);
            checks.push(check("figures", "warn", finding));
        }
        checks.push(match figures.partition_weeks_ahead {
            ..1 => check("partitions", "bad", "Next week has no partitions: see `partitions_failed` in the log."),
            weeks => check("partitions", "ok", format!("Created {weeks} weeks ahead.")),
        });
        checks.push(if figures.oldest_snapshot_age > MAX_SNAPSHOT_SECONDS {
            let finding = "A transaction has been open for long, so that dead rows of the queue cannot be removed: find it in \
                `pg_stat_activity` by its `xact_start`.";
            check("oldest snapshot", "bad", finding)
        } else {
            check("oldest snapshot", "ok", format!("{:.0} s old.", figures.oldest_snapshot_age))
        });
        checks.push(if figures.is_ledger_balanced {
            check("ledger", "ok", "Every recipient is queued or in an end state.")
        } else {
            check("ledger", "bad", "Recipients are unaccounted for. This is a bug: report it with `GET /v1/ledger`.")
        });
        checks
    }
}

fn check(name: impl Into<String>, status: &'static str, finding: impl Into<String>) -> CheckView {
    CheckView { name: name.into(), status, finding: finding.into() }
}

/// What a tenant, or a destination of its messages, wrote is left out: an operator's key does not read data of tenants. The
/// reason of a suspension is the operator's own.
fn stopped(one: &Stopped, status: &'static str, state: &str, fix: &str) -> CheckView {
    let about = match (one.tenant_id, &one.reason) {
        (Some(tenant), _) => format!(" (tenant {})", TenantId(tenant)),
        (None, Some(reason)) => format!(" ({reason})"),
        (None, None) => String::new(),
    };
    check(one.name.as_str(), status, format!("{state} since {}{about}: {fix}.", time(one.since)))
}

/// Of the URL only the host is shown: the rest often contains a secret.
fn endpoint(endpoint: &Endpoint) -> CheckView {
    let (state, fix) = if endpoint.is_disabled {
        ("Disabled", "fix the endpoint, then enable it")
    } else {
        ("Failing", "fix the endpoint")
    };
    let url = Url::parse(&endpoint.url).ok();
    let host = url.as_ref().and_then(Url::host_str).unwrap_or("unknown host");
    let (tenant, since) = (TenantId(endpoint.tenant_id), time(endpoint.since));
    let finding = format!("{state} since {since} (tenant {tenant}, {host}): {fix}. Its tenant sees the reason.");
    check(format!("webhook {}", EndpointId(endpoint.id)), "bad", finding)
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn findings() -> Findings {
        let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_000);
        let overview = Overview {
            server_version: "15.8".into(),
            paused: Vec::new(),
            unreachable: Vec::new(),
            held: 0,
            oldest_due: None,
            endpoints: Vec::new(),
            unread: Vec::new(),
        };
        let figures = Figures { partition_weeks_ahead: 2, is_ledger_balanced: true, ..Figures::default() };
        Findings {
            overview,
            workers: Vec::new(),
            durability: Vec::new(),
            figures: Some((figures, Duration::ZERO)),
            restore: None,
            clock_skew: TimeDelta::zero(),
            now,
        }
    }

    fn faults(findings: &Findings) -> Vec<String> {
        let checks = findings.checks();
        checks
            .into_iter()
            .filter(|check| check.status != "ok")
            .map(|check| format!("{} {}", check.status, check.name))
            .collect()
    }

    #[test]
    fn missing_worker_is_a_fault_if_messages_are_due() {
        let mut found = findings();
        assert_eq!(faults(&found), ["warn workers"]);
        found.overview.oldest_due = Some(found.now - TimeDelta::minutes(6));
        assert_eq!(faults(&found), ["bad workers", "bad backlog"]);
        found.restore = Some("It holds.".into());
        assert_eq!(faults(&found)[0], "bad restore guard");
    }

    #[test]
    fn faults_come_first() {
        let mut found = findings();
        let stopped = |name: &str| Stopped {
            name: name.into(),
            tenant_id: Some(Uuid::nil()),
            since: found.now,
            reason: Some("moved".into()),
        };
        found.overview.paused = vec![stopped("stream bulk")];
        found.overview.unreachable = vec![stopped("lane_7")];
        found.clock_skew = TimeDelta::seconds(-9);
        assert_eq!(faults(&found), ["bad clock", "bad lane_7", "warn workers", "warn stream bulk"]);
    }

    #[test]
    fn what_tenants_wrote_is_left_out() {
        let mut found = findings();
        found.overview.endpoints = vec![Endpoint {
            id: Uuid::nil(),
            tenant_id: Uuid::nil(),
            url: "https://user:word@hooks.test:8443/T0/TOKEN?key=SECRET".into(),
            since: found.now,
            is_disabled: false,
            reason: Some("500 TOKEN".into()),
        }];
        let lane = "lane_7 (bulk, relay, example.net)".to_owned();
        let reply = Some("550 <ann@example.net> unknown".into());
        let (tenant_id, since) = (Some(Uuid::nil()), found.now);
        found.overview.unreachable = vec![Stopped { name: lane, tenant_id, since, reason: reply }];
        let checks: Vec<String> =
            found.checks().into_iter().map(|check| format!("{} {}", check.name, check.finding)).collect();
        let text = checks.join("\n");
        for hidden in ["TOKEN", "SECRET", "word", "8443", "ann@"] {
            assert!(!text.contains(hidden), "{hidden}: {text}");
        }
        assert!(text.contains("hooks.test") && text.contains("tenant ten_"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_is_a_warning() {
        let mut found = findings();
        found.overview.unread = vec!["backlog", "held messages"];
        assert_eq!(faults(&found), ["warn workers", "warn backlog", "warn held messages"]);
    }

    #[test]
    fn old_snapshot_and_missing_partitions_are_faults() {
        let mut found = findings();
        if let Some((figures, age)) = &mut found.figures {
            (figures.oldest_snapshot_age, figures.partition_weeks_ahead) = (1_000.0, 0);
            (figures.is_ledger_balanced, *age) = (false, Duration::from_hours(1));
        }
        assert_eq!(
            faults(&found),
            ["bad partitions", "bad oldest snapshot", "bad ledger", "warn workers", "warn figures"]
        );
        found.figures = None;
        assert_eq!(faults(&found), ["warn workers", "warn figures"]);
    }
}
