//! Keeps the gauges up to date that no event changes: the sizes of the database pools, and the metrics of the whole
//! service, which one process computes and every process exports.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::SharedClock;
use crate::db::service_metrics::{self, Figures};
use crate::db::{Db, DbError};
use crate::metrics::labels::{EndpointState, LaneState, PoolState, QueueState, Stream, Table, WorkerState};
use crate::metrics::{METRICS, SERVICE};

/// Interval of the upkeep of this process's metrics.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Starts to update the gauges. The tasks end when the handles are dropped.
pub(super) fn start(
    db: &Db,
    worker_db: Option<&Db>,
    clock: &SharedClock,
    lease: Duration,
) -> [AbortOnDropHandle<()>; 2] {
    let pools = std::iter::once(db).chain(worker_db).cloned().collect();
    let upkeep = tokio::spawn(run_upkeep(pools));
    let service = tokio::spawn(run_service(db.clone(), clock.clone(), lease));
    [upkeep, service].map(AbortOnDropHandle::new)
}

/// Updates the metrics of this process forever. `pools` are its database pools.
async fn run_upkeep(pools: Vec<Db>) {
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        set_pools(&pools);
        crate::metrics::run_upkeep();
    }
}

fn set_pools(pools: &[Db]) {
    let all = pools.iter().map(Db::connections);
    let sums = all.reduce(|mut sums, more| {
        for (sum, pool) in sums.iter_mut().zip(more) {
            sum.used += pool.used;
            sum.idle += pool.idle;
            sum.unopened += pool.unopened;
        }
        sums
    });
    for pool in sums.into_iter().flatten() {
        let states = [(PoolState::Used, pool.used), (PoolState::Idle, pool.idle), (PoolState::Unopened, pool.unopened)];
        for (state, connections) in states {
            METRICS.db_pool_connections.get((pool.name, state)).set(connections);
        }
    }
}

/// Updates the metrics of the whole service forever. `lease` is the lease time of workers that do not record theirs.
async fn run_service(db: Db, clock: SharedClock, lease: Duration) {
    let mut ticks = interval(service_metrics::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = update(&db, &clock, lease).await {
            tracing::debug!(%error, "failed to update the metrics of the service; trying again");
        }
    }
}

async fn update(db: &Db, clock: &SharedClock, lease: Duration) -> Result<(), DbError> {
    let refreshed = service_metrics::refresh(db, lease, clock.now()).await;
    // Another process may have computed them.
    if let Some((figures, age)) = service_metrics::load(db).await? {
        set(&figures, age);
    }
    refreshed.map(|_| ())
}

fn set(figures: &Figures, age: Duration) {
    let service = &*SERVICE;
    service.age.set(age);
    for stream in Stream::ALL {
        set_queue(figures, stream);
    }
    set_all(LaneState::ALL.into_iter().zip(figures.lanes), |state| service.lanes.get((state,)));
    set_all(EndpointState::ALL.into_iter().zip(figures.webhook_endpoints), |state| {
        service.webhook_endpoints.get((state,))
    });
    set_all(Table::ALL.into_iter().zip(figures.dead_tuples), |table| service.db_dead_tuples.get((table,)));
    set_all(WorkerState::ALL.into_iter().zip(figures.workers), |state| service.workers.get((state,)));
    service.webhook_lag_events.set(number(figures.webhook_lag_events));
    service.webhook_lag.set(figures.webhook_lag);
    service.ledger_balanced.set(if figures.is_ledger_balanced { 1.0 } else { 0.0 });
    service.uncertain_recipients.set(number(figures.uncertain));
    service.db_oldest_snapshot_age.set(figures.oldest_snapshot_age);
    service.db_size.set(number(figures.db_size));
    service.partition_weeks_ahead.set(number(figures.partition_weeks_ahead));
    service.event_seq.set(number(figures.event_seq));
    service.domains_unverified.set(number(figures.domains_unverified));
}

/// Sets the gauges of one stream, also if nothing of it is queued.
fn set_queue(figures: &Figures, stream: Stream) {
    use crate::metrics::family::Label as _;
    let queue = figures.queue.iter().find(|queue| queue.stream == stream.word()).cloned().unwrap_or_default();
    let counts = [
        (QueueState::Due, queue.due),
        (QueueState::Scheduled, queue.scheduled),
        (QueueState::InFlight, queue.in_flight),
        (QueueState::Held, queue.held),
    ];
    set_all(counts.into_iter(), |state| SERVICE.queue_recipients.get((stream, state)));
    SERVICE.queue_oldest_due_age.get((stream,)).set(queue.oldest_due_age);
}

fn set_all<'a, T: Copy>(counts: impl Iterator<Item = (T, i64)>, gauge: impl Fn(T) -> &'a metrics::Gauge) {
    for (label, count) in counts {
        gauge(label).set(number(count));
    }
}

/// Returns a count as the value of a gauge.
#[expect(clippy::cast_precision_loss, reason = "counts above 2^53 are not exact, which no reader notices")]
fn number(count: i64) -> f64 {
    count as f64
}
