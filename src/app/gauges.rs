//! Keeps the gauges up to date that no event changes: the sizes of the database pools, and the metrics of the whole
//! service, which one process computes and every process exports.

use std::time::{Duration, Instant};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use crate::clock::SharedClock;
use crate::db::service_metrics::{self, Figures};
use crate::db::{Db, DbError};
use crate::metrics::labels::{
    EndpointState, EnqueuedState, LaneState, PoolRole, PoolState, QueueState, Stream, Table, WorkerState,
};
use crate::metrics::{METRICS, SERVICE};

/// Interval of the upkeep of this process's metrics.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The database pools of this process.
#[derive(Debug)]
pub(super) struct Pools {
    /// The pools of the API and of background tasks.
    pub api: Db,
    /// The worker's pools, if there is a worker.
    pub worker: Option<Db>,
    /// The dashboard's pools, if it is served.
    pub dashboard: Option<Db>,
}

/// Starts to update the gauges. `lease` is the lease time of workers that do not record theirs. The tasks end when the
/// handles are dropped.
pub(super) fn start(pools: Pools, clock: &SharedClock, lease: Duration) -> [AbortOnDropHandle<()>; 2] {
    let service = tokio::spawn(run_service(pools.api.clone(), clock.clone(), lease));
    let upkeep = tokio::spawn(run_upkeep(pools));
    [upkeep, service].map(AbortOnDropHandle::new)
}

/// Updates the metrics of this process forever.
async fn run_upkeep(pools: Pools) {
    let Pools { api, worker, dashboard } = pools;
    let optional = [(PoolRole::Worker, worker), (PoolRole::Dashboard, dashboard)];
    let optional = optional.into_iter().filter_map(|(role, db)| Some((role, db?)));
    let pools: Vec<_> = std::iter::once((PoolRole::Api, api)).chain(optional).collect();
    let mut ticks = interval(UPKEEP_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (role, db) in &pools {
            set_pools(*role, db);
        }
        crate::metrics::run_upkeep();
    }
}

fn set_pools(role: PoolRole, db: &Db) {
    for pool in db.connections() {
        let states = [(PoolState::Used, pool.used), (PoolState::Idle, pool.idle), (PoolState::Unopened, pool.unopened)];
        for (state, connections) in states {
            METRICS.db_pool_connections.get((role, pool.name, state)).set(connections);
        }
    }
}

/// Updates the metrics of the whole service forever. `lease` is the lease time of workers that do not record theirs.
async fn run_service(db: Db, clock: SharedClock, lease: Duration) {
    let mut ticks = interval(service_metrics::INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // When they were last loaded, and their age then.
    let mut last = None;
    loop {
        ticks.tick().await;
        match update(&db, &clock, lease).await {
            Ok(Some(age)) => last = Some((Instant::now(), age)),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "failed to update the metrics of the service; trying again"),
        }
        // They also age while the database is unavailable.
        if let Some((loaded_at, age)) = last {
            SERVICE.age.set(age + loaded_at.elapsed());
        }
    }
}

/// Returns the age of the metrics, if they have been computed.
async fn update(db: &Db, clock: &SharedClock, lease: Duration) -> Result<Option<Duration>, DbError> {
    if !db.is_read_only()
        && let Err(error) = service_metrics::refresh(db, lease, clock.now()).await
    {
        tracing::debug!(%error, "failed to compute the metrics of the service; trying again later");
    }
    // Another process may have computed them.
    let loaded = service_metrics::load(db).await?;
    Ok(loaded.map(|(figures, age)| {
        set(&figures);
        age
    }))
}

fn set(figures: &Figures) {
    let service = &*SERVICE;
    for stream in Stream::ALL {
        set_queue(figures, stream);
    }
    set_all(LaneState::ALL.into_iter().zip(figures.lanes), |state| service.lanes.get((state,)));
    set_all(EndpointState::ALL.into_iter().zip(figures.webhook_endpoints), |state| {
        service.webhook_endpoints.get((state,))
    });
    set_all(Table::ALL.into_iter().zip(figures.dead_tuples), |table| service.db_dead_tuples.get((table,)));
    set_all(EnqueuedState::ALL.into_iter().zip(figures.sql_inbox), |state| service.sql_inbox.get((state,)));
    service.sql_inbox_oldest_age.set(figures.sql_inbox_oldest_age);
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
        (QueueState::Paused, queue.paused),
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
