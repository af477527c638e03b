//! The gauges of the whole service. Every process exports the same values, so a query takes the maximum over the
//! processes: `max without (instance) (postrider_queue_recipients)`.

use std::sync::LazyLock;

use metrics::Gauge;

use super::family::Family;
use super::labels::{EndpointState, EnqueuedState, LaneState, QueueState, Stream, Table, WorkerState};
use super::registry::instruments;

instruments! {
    /// The gauges of the whole service.
    pub struct ServiceMetrics {
        /// Age of the metrics of the whole service.
        age: Gauge = "postrider_service_metrics_age_seconds";
        /// Recipients that have not reached an end state.
        queue_recipients: Family<(Stream, QueueState), Gauge> =
            "postrider_queue_recipients", (Stream::Transactional, QueueState::Due);
        /// How long the oldest due recipient of the open lanes has been due.
        queue_oldest_due_age: Family<(Stream,), Gauge> =
            "postrider_queue_oldest_due_age_seconds", (Stream::Transactional,);
        /// Lanes by state.
        lanes: Family<(LaneState,), Gauge> = "postrider_lanes", (LaneState::Open,);
        /// Events that the enabled webhook endpoint furthest behind has still to read.
        webhook_lag_events: Gauge = "postrider_webhook_lag_events";
        /// Age of the oldest event that an enabled webhook endpoint has still to read.
        webhook_lag: Gauge = "postrider_webhook_lag_seconds";
        /// Webhook endpoints by state.
        webhook_endpoints: Family<(EndpointState,), Gauge> =
            "postrider_webhook_endpoints", (EndpointState::Healthy,);
        /// 0 if a recipient was found within an hour that is neither queued nor in an end state, otherwise 1.
        ledger_balanced: Gauge = "postrider_ledger_balanced";
        /// Recipients for which it is unknown whether the message arrived, counted up to 10,000.
        uncertain_recipients: Gauge = "postrider_uncertain_recipients";
        /// Age of the oldest snapshot in the database, which keeps dead rows from being removed.
        db_oldest_snapshot_age: Gauge = "postrider_db_oldest_snapshot_age_seconds";
        /// Dead rows of the tables that change most.
        db_dead_tuples: Family<(Table,), Gauge> = "postrider_db_dead_tuples", (Table::Queue,);
        /// Size of the database.
        db_size: Gauge = "postrider_db_size_bytes";
        /// Number of coming weeks for which every partitioned table has a partition.
        partition_weeks_ahead: Gauge = "postrider_partition_weeks_ahead";
        /// Number of events recorded so far, over all tenants.
        event_seq: Gauge = "postrider_event_seq";
        /// Sender domains that are not verified.
        domains_unverified: Gauge = "postrider_domains_unverified";
        /// Messages sent from SQL that are not accepted yet, or were refused.
        sql_inbox: Family<(EnqueuedState,), Gauge> = "postrider_sql_inbox", (EnqueuedState::Waiting,);
        /// Age of the oldest message sent from SQL that is to be accepted and waits for nothing.
        sql_inbox_oldest_age: Gauge = "postrider_sql_inbox_oldest_age_seconds";
        /// Registered workers by state.
        workers: Family<(WorkerState,), Gauge> = "postrider_workers", (WorkerState::Alive,);
    }
}

/// The gauges of the whole service.
pub static SERVICE: LazyLock<ServiceMetrics> = LazyLock::new(ServiceMetrics::new);
