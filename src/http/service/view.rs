//! Workers and the service in API responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::checks::Findings;
use crate::db::pool::server::Connections;
use crate::domain::id::WorkerId;

/// A process that delivers messages.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Worker)]
pub struct WorkerView {
    /// The worker's id, new at each start.
    #[schema(value_type = String, example = "wrk_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: WorkerId,
    /// The name of the machine.
    #[schema(example = "mail-2")]
    pub host: String,
    /// The id of the process.
    #[schema(example = 4_711)]
    pub pid: i32,
    /// Postrider's version; null for versions that did not record it.
    #[schema(example = "1.4.0")]
    pub version: Option<String>,
    /// `alive`, or `dead` once its lease has ended.
    #[schema(example = "alive")]
    pub status: &'static str,
    /// When it started.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub started_at: DateTime<Utc>,
    /// Its last heartbeat.
    #[schema(example = "2026-11-23T12:30:00Z")]
    pub heartbeat_at: DateTime<Utc>,
    /// When its lease ends without another heartbeat; null for versions that did not record it.
    #[schema(example = "2026-11-23T12:30:30Z")]
    pub lease_until: Option<DateTime<Utc>>,
    /// The number of recipients leased to it; null while more than 10,000 recipients are queued, or the database is slow.
    #[schema(example = 12)]
    pub in_flight: Option<i64>,
    /// The names of settings that all processes must share, and that differ from those of the worker that started last.
    #[schema(example = json!(["secret_key"]))]
    pub differing_settings: Vec<String>,
}

/// The state of the service.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Service)]
pub struct ServiceView {
    /// The version of the process that responds.
    #[schema(example = "1.4.0")]
    pub version: &'static str,
    /// The number of Postrider processes that are connected to the database.
    #[schema(example = 3)]
    pub processes: u32,
    /// The database.
    pub database: DatabaseView,
    /// What was checked, faults first.
    pub checks: Vec<CheckView>,
}

/// The state of the database.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ServiceDatabase)]
pub struct DatabaseView {
    /// The version of Postgres.
    #[schema(example = "15.8")]
    pub server_version: String,
    /// The number of connections that all processes together may use.
    #[schema(example = 97)]
    pub connections: u32,
    /// How many of them are unused.
    #[schema(example = 71)]
    pub free_connections: u32,
    /// The age in seconds of the sizes below; null if they were not measured yet.
    #[schema(example = 9.5)]
    pub measured_seconds_ago: Option<f64>,
    /// The size of the database in bytes.
    #[schema(example = 81_264_640)]
    pub size: Option<i64>,
    /// The age in seconds of the oldest snapshot. An old one keeps dead rows from being removed, which makes the queue slow.
    #[schema(example = 0.2)]
    pub oldest_snapshot_seconds: Option<f64>,
    /// The number of coming weeks for which every partitioned table has a partition.
    #[schema(example = 2)]
    pub partition_weeks_ahead: Option<i64>,
    /// Dead rows by table, which the next vacuum removes.
    pub dead_rows: Vec<DeadRows>,
}

/// The dead rows of a table.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ServiceDeadRows)]
pub struct DeadRows {
    /// The table.
    #[schema(example = "queue")]
    pub table: &'static str,
    /// The number of dead rows, as Postgres estimates it.
    #[schema(example = 1_204)]
    pub rows: i64,
}

/// The result of a check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = ServiceCheck)]
pub struct CheckView {
    /// What was checked.
    #[schema(example = "workers")]
    pub name: String,
    /// `ok`, `warn` or `bad`.
    #[schema(example = "bad")]
    pub status: &'static str,
    /// What was found, and the fix.
    #[schema(example = "None is running, and messages are due: start `postrider serve`.")]
    pub finding: String,
}

/// The tables of `Figures::dead_tuples`, in its order.
const TABLES: [&str; 4] = ["queue", "lanes", "recipients", "event_counters"];

impl DatabaseView {
    pub(super) fn new(server_version: String, connections: Connections, findings: &Findings) -> Self {
        let figures = findings.figures.as_ref();
        let dead_rows = figures.into_iter().flat_map(|(figures, _)| TABLES.into_iter().zip(figures.dead_tuples));
        Self {
            server_version,
            connections: connections.available,
            free_connections: connections.free,
            measured_seconds_ago: figures.map(|(_, age)| age.as_secs_f64()),
            size: figures.map(|(figures, _)| figures.db_size),
            oldest_snapshot_seconds: figures.map(|(figures, _)| figures.oldest_snapshot_age),
            partition_weeks_ahead: figures.map(|(figures, _)| figures.partition_weeks_ahead),
            dead_rows: dead_rows.map(|(table, rows)| DeadRows { table, rows }).collect(),
        }
    }
}
