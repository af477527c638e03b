//! The gauges of the whole service. Every process exports the same values, so a query takes the maximum over the
//! processes: `max without (instance) (postrider_queue_recipients)`.

use std::sync::LazyLock;

use metrics::Gauge;

use super::family::Family;
use super::labels::{EndpointState, LaneState, QueueState, Stream, Table, WorkerState};
use super::registry::single;

/// The gauges of the whole service.
#[derive(Debug)]
pub struct ServiceMetrics {
    /// Age of these values.
    pub age: Gauge,
    /// Rows of the queue.
    pub queue_recipients: Family<(Stream, QueueState), Gauge>,
    /// How long the oldest due recipient has been due, in lanes that are open.
    pub queue_oldest_due_age: Family<(Stream,), Gauge>,
    /// Lanes.
    pub lanes: Family<(LaneState,), Gauge>,
    /// Events that the last enabled webhook endpoint has still to read.
    pub webhook_lag_events: Gauge,
    /// Age of the oldest event that an enabled webhook endpoint has still to read.
    pub webhook_lag: Gauge,
    /// Webhook endpoints.
    pub webhook_endpoints: Family<(EndpointState,), Gauge>,
    /// Whether every recipient of the checked messages is accounted for.
    pub ledger_balanced: Gauge,
    /// Recipients in the state `uncertain`.
    pub uncertain_recipients: Gauge,
    /// Age of the oldest snapshot that a session of the database holds.
    pub db_oldest_snapshot_age: Gauge,
    /// Dead rows.
    pub db_dead_tuples: Family<(Table,), Gauge>,
    /// Size of the database.
    pub db_size: Gauge,
    /// Number of coming weeks for which every table has a partition.
    pub partition_weeks_ahead: Gauge,
    /// Number of events so far.
    pub event_seq: Gauge,
    /// Sender domains that are not verified.
    pub domains_unverified: Gauge,
    /// Workers.
    pub workers: Family<(WorkerState,), Gauge>,
}

/// The gauges of the whole service.
pub static SERVICE: LazyLock<ServiceMetrics> = LazyLock::new(ServiceMetrics::new);

impl ServiceMetrics {
    fn new() -> Self {
        let stream = Stream::Transactional;
        Self {
            age: single("postrider_service_metrics_age_seconds", "Age of the metrics of the whole service"),
            queue_recipients: Family::new(
                "postrider_queue_recipients",
                "Recipients that have not reached an end state",
                (stream, QueueState::Due),
            ),
            queue_oldest_due_age: Family::new(
                "postrider_queue_oldest_due_age_seconds",
                "How long the oldest due recipient of the open lanes has been due",
                (stream,),
            ),
            lanes: Family::new("postrider_lanes", "Lanes by state", (LaneState::Open,)),
            webhook_lag_events: single(
                "postrider_webhook_lag_events",
                "Events that the enabled webhook endpoint furthest behind has still to read",
            ),
            webhook_lag: single(
                "postrider_webhook_lag_seconds",
                "Age of the oldest event that an enabled webhook endpoint has still to read",
            ),
            webhook_endpoints: Family::new(
                "postrider_webhook_endpoints",
                "Webhook endpoints by state",
                (EndpointState::Healthy,),
            ),
            ledger_balanced: single(
                "postrider_ledger_balanced",
                "1 if every checked recipient is either queued or in an end state, otherwise 0",
            ),
            uncertain_recipients: single(
                "postrider_uncertain_recipients",
                "Recipients for which it is unknown whether the message arrived, counted up to 10,000",
            ),
            db_oldest_snapshot_age: single(
                "postrider_db_oldest_snapshot_age_seconds",
                "Age of the oldest snapshot in the database, which keeps dead rows from being removed",
            ),
            db_dead_tuples: Family::new(
                "postrider_db_dead_tuples",
                "Dead rows of the tables that change most",
                (Table::Queue,),
            ),
            db_size: single("postrider_db_size_bytes", "Size of the database"),
            partition_weeks_ahead: single(
                "postrider_partition_weeks_ahead",
                "Number of coming weeks for which every partitioned table has a partition",
            ),
            event_seq: single("postrider_event_seq", "Number of events recorded so far, over all tenants"),
            domains_unverified: single("postrider_domains_unverified", "Sender domains that are not verified"),
            workers: Family::new("postrider_workers", "Registered workers by state", (WorkerState::Alive,)),
        }
    }
}
