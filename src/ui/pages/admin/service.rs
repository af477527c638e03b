//! *Workers and database*: for operators. What was checked, the workers with their leases, and the state of the database.

use std::time::Duration;

use askama::Template;
use axum::Router;
use axum::routing::get;
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;

use crate::ui::Ui;
use crate::ui::call::Listed;
use crate::ui::format::{Clock, bytes, number, span, tone};
use crate::ui::pages::{PageResult, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};

/// Maximum number of workers that the page shows.
const MAX_WORKERS: usize = 500;

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new().route("/ui/service", get(show))
}

#[derive(Debug, Deserialize)]
struct Service {
    version: String,
    processes: u32,
    database: Database,
    checks: Vec<Check>,
}

#[derive(Debug, Deserialize)]
struct Database {
    server_version: String,
    connections: u32,
    free_connections: u32,
    measured_seconds_ago: Option<f64>,
    size: Option<i64>,
    oldest_snapshot_seconds: Option<f64>,
    partition_weeks_ahead: Option<i64>,
    dead_rows: Vec<DeadRows>,
}

#[derive(Debug, Deserialize)]
struct DeadRows {
    table: String,
    rows: i64,
}

#[derive(Debug, Deserialize)]
struct Check {
    name: String,
    status: String,
    finding: String,
}

#[derive(Debug, Deserialize)]
struct Worker {
    id: String,
    host: String,
    pid: i32,
    version: Option<String>,
    status: String,
    started_at: DateTime<Utc>,
    heartbeat_at: DateTime<Utc>,
    lease_until: Option<DateTime<Utc>>,
    in_flight: Option<i64>,
    differing_settings: Vec<String>,
}

impl Service {
    fn used_connections(&self) -> u32 {
        self.database.connections.saturating_sub(self.database.free_connections)
    }

    fn has_old_snapshot(&self) -> bool {
        self.checks.iter().any(|check| check.name == "oldest snapshot" && check.status != "ok")
    }

    fn lacks_partitions(&self) -> bool {
        self.database.partition_weeks_ahead.is_some_and(|weeks| weeks < 1)
    }

    fn faults(&self) -> usize {
        self.checks.iter().filter(|check| check.status != "ok").count()
    }
}

/// Returns a number of seconds as a duration.
fn seconds(seconds: f64) -> String {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    span(TimeDelta::from_std(duration).unwrap_or_default())
}

#[derive(Template)]
#[template(path = "service.html")]
struct ServicePage {
    shell: Shell,
    clock: Clock,
    service: Service,
    workers: Listed<Worker>,
}

async fn show(visitor: Visitor) -> PageResult {
    let service: Service = visitor.get("/v1/service").await?;
    let workers = visitor.get_list("/v1/workers", &[], MAX_WORKERS).await?;
    let shell = Shell::new(&visitor, Section::Service, "Workers and database");
    render(&ServicePage { shell, clock: Clock(visitor.api().now()), service, workers })
}
