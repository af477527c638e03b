//! Claims due recipients, delivers their messages, and records the outcomes. The only module that connects the database
//! with SMTP and with webhooks.
//!
//! ```text
//! claim ─▶ deliver (one task per message) ─▶ outcome
//! ```
//!
//! No transaction is open while a message is being sent: a claim leases recipients to this worker and commits; an
//! outcome is committed afterwards, and has an effect only while the lease is valid.
//!
//! | module | purpose | may import |
//! |---|---|---|
//! | `lease` | holds, renews, releases and recovers leases | |
//! | `claim` | claims recipients, each lane up to its quota | `lease` |
//! | `outcome` | records outcomes and adapts limits to them | `claim`, `lease` |
//! | `deliver` | loads, prepares and sends messages | `outcome`, `claim`, `lease` |
//! | `handoff` | sends new messages of this process without a claim | `deliver`, `outcome`, `claim`, `lease` |
//! | `maintenance` | runs periodic tasks | `deliver`, `outcome`, `claim`, `lease` |
//! | `webhooks` | posts events to webhook endpoints | `lease` |
//!
//! The files of this directory connect these modules: they may import all of them, and none of them imports these
//! files. `context` has the settings and dependencies of a worker, `claim_loop` claims and starts deliveries.
//! `tests/it/repository/layers.rs` checks both rules.

mod claim;
mod claim_loop;
mod context;
mod deliver;
mod handoff;
mod lease;
mod maintenance;
mod outcome;
mod webhooks;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::clock::SharedClock;
use crate::db::lanes::dedicated::DedicatedLanes;
use crate::db::workers::RescuedLeases;
use crate::db::{Db, DbError};
use crate::group_commit::{LocalWorker, PendingOutcomes};
use crate::smtp;
use crate::telemetry::KeyedLogLimit;
use claim::lane_stats::LaneStats;
use claim::{ClaimContext, wake_listener};
use claim_loop::ClaimLoop;
pub use context::{Dependencies, Settings};
use deliver::DeliverContext;
pub use deliver::envelopes::Returns;
use deliver::inbound_relays::InboundRelays;
use deliver::message::memory_budget::MessageMemory;
use deliver::message::signing::Signing;
use deliver::traced_lanes::TracedLanes;
use handoff::direct::DirectHandoff;
use handoff::gate::HandoffGate;
use lease::crash_quarantine::CrashQuarantine;
use lease::identity::Identity;
use lease::in_flight::InFlight;
use lease::permits::Permits;
use lease::suspended_tenants::{self, SuspendedTenants};
use lease::{Leases, heartbeat, lost_claims, rescue};
pub use maintenance::cleanup::CleanedUp;
use maintenance::cleanup::{self, Cleanup};
use maintenance::domain_checks::{self, DomainChecks};
use maintenance::expire_closed_lanes::{self, ClosedLaneExpiry};
use maintenance::expired_suppressions;
use maintenance::retention;
pub use maintenance::retention::{Decision, Deleted, PlannedWeek, Retention};
use maintenance::statistics::{self, Statistics};
use maintenance::tenant_deletion;
use maintenance::webhook_secrets::{self, WebhookSecrets};
use outcome::RecordContext;
use outcome::recorder::OutcomeRecorder;
use outcome::retry_policy_cache::RetryPolicyCache;
use webhooks::WebhookContext;

/// Maximum number of recipients in flight for each SMTP transaction that the process may run: most of them wait for a
/// connection to a fast destination. With 1 instead of 8, measurements showed that a relay that takes 5,000 messages
/// per second runs dry while new messages are committed, and that messages accepted meanwhile have to be claimed.
const IN_FLIGHT_PER_TRANSACTION: usize = 8;

/// A worker. A process has one, which sends many messages at a time.
#[derive(Debug, Clone)]
pub struct Worker {
    inner: Arc<Inner>,
}

/// The contexts of the modules, and the periodic tasks.
#[derive(Debug)]
struct Inner {
    leases: Arc<Leases>,
    claim: Arc<ClaimContext>,
    deliver: Arc<DeliverContext>,
    webhooks: Arc<WebhookContext>,
    gate: Arc<HandoffGate>,
    handoff: Arc<DirectHandoff>,
    expiry: Arc<ClosedLaneExpiry>,
    domain_checks: Arc<DomainChecks>,
    webhook_secrets: Arc<WebhookSecrets>,
    cleanup: Arc<Cleanup>,
    retention: Arc<Retention>,
    statistics: Arc<Statistics>,
    sender: Arc<smtp::Sender>,
    grace: Duration,
}

impl Worker {
    /// Registers a worker in the database. `wake` notifies it of messages committed by this process.
    pub async fn start(
        db: Db,
        clock: SharedClock,
        dependencies: Dependencies,
        settings: Settings,
        wake: Arc<Notify>,
    ) -> Result<Self, DbError> {
        let Dependencies { sender, simulator, poster, senders, caches, dns, outcomes, renderer, restore_gate } =
            dependencies;
        let retry_policies = RetryPolicyCache::load(&db, settings.policy, clock.now()).await?;
        let leases = Arc::new(Leases {
            identity: Identity::register(&db, settings.lease, settings.fingerprints).await?,
            in_flight: InFlight::new(settings.concurrency.saturating_mul(IN_FLIGHT_PER_TRANSACTION)),
            permits: Permits::default(),
            suspended_tenants: SuspendedTenants::default(),
            restore_gate,
            duration: settings.lease,
            claim_lost: Notify::new(),
            db: db.clone(),
            clock: clock.clone(),
            wake,
        });
        let (lane_stats, dedicated_lanes) = (Arc::new(LaneStats::default()), Arc::new(DedicatedLanes::new(db.clone())));
        let record = Arc::new(RecordContext {
            db: db.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            lane_stats: lane_stats.clone(),
            sender: sender.clone(),
            dedicated_lanes: dedicated_lanes.clone(),
        });
        let claim = Arc::new(ClaimContext {
            db: db.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            lane_stats,
            sender: sender.clone(),
            concurrency: settings.concurrency,
            connections: settings.connections,
            one_recipient_per_envelope: settings.returns.as_ref().is_some_and(|returns| returns.verp),
        });
        let tasks = TaskTracker::new();
        let deliver = Arc::new(DeliverContext {
            db: db.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            recorder: OutcomeRecorder::start(record, outcomes, &tasks),
            sender: sender.clone(),
            simulator,
            signing: Signing::new(senders),
            retry_policies,
            quarantine: CrashQuarantine::new(settings.concurrency),
            memory: MessageMemory::new(settings.memory),
            dedicated_lanes,
            traced_lanes: Arc::new(TracedLanes::new(db.clone())),
            routes: settings.routes,
            inbound_relays: InboundRelays::new(db.clone(), caches.clone(), settings.keyring.clone()),
            returns: settings.returns,
            links: settings.links,
            renderer,
            preparation_failures: KeyedLogLimit::new(Duration::from_mins(1)),
            closing: CancellationToken::new(),
            tasks,
        });
        let webhooks = WebhookContext::new(
            leases.clone(),
            poster,
            settings.keyring.clone(),
            settings.grace,
            settings.resend_events,
        );
        let secrets = WebhookSecrets { db: db.clone(), clock: clock.clone(), keyring: settings.keyring };
        let gate = Arc::new(HandoffGate::default());
        let handoff = DirectHandoff { claim: claim.clone(), deliver: deliver.clone(), gate: gate.clone() };
        let cleanup = Cleanup::new(
            db.clone(),
            clock.clone(),
            settings.unused_blobs,
            settings.conversations,
            settings.periods.idempotency,
            leases.restore_gate.clone(),
        );
        let retention = Retention::new(db.clone(), clock.clone(), settings.periods, leases.restore_gate.clone());
        let statistics = Statistics::new(db.clone(), clock.clone(), sender.clone());
        let inner = Inner {
            leases,
            claim,
            webhooks: Arc::new(webhooks),
            gate,
            handoff: Arc::new(handoff),
            expiry: Arc::new(ClosedLaneExpiry::new(deliver.clone())),
            domain_checks: Arc::new(DomainChecks { db, clock, caches, dns, dns_settings: settings.dns_settings }),
            webhook_secrets: Arc::new(secrets),
            cleanup: Arc::new(cleanup),
            retention: Arc::new(retention),
            statistics: Arc::new(statistics),
            deliver,
            sender,
            grace: settings.grace,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns this worker for the group commit; `outcomes` is the other end of [`Dependencies::outcomes`]. The group
    /// commit offers new messages to the worker from the worker's first claim to the end of its [`run`](Self::run).
    pub fn local(&self, outcomes: PendingOutcomes) -> LocalWorker {
        let Inner { leases, handoff, .. } = &*self.inner;
        let consumer = Arc::downgrade(handoff);
        LocalWorker { outcomes, claims: leases.clone(), consumer }
    }

    /// Runs until `stop`, then finishes the messages that are being sent and releases the others.
    pub async fn run(&self, stop: CancellationToken) {
        let inner = &self.inner;
        // Heartbeats are sent to the end, and not only until `stop`: otherwise other workers would rescue the leases of
        // messages that are still being sent here, and send them again. A panic ends them too, so that no recipient
        // stays leased without a task.
        let _heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat::run(inner.leases.clone())));
        let tasks = self.start_periodic_tasks(&stop);
        let webhooks = AbortOnDropHandle::new(tokio::spawn(webhooks::run(inner.webhooks.clone(), stop.clone())));
        self.claim_loop().run(&stop, &inner.leases.wake).await;
        tasks.wait().await;
        let ((), ended) = tokio::join!(self.finish(), webhooks);
        if ended.is_err() {
            tracing::error!(
                event = "webhooks_panicked",
                "webhook deliveries ended in a panic; other workers continue with them now"
            );
        }
        self.leave().await;
    }

    /// Starts the periodic tasks, which end with `stop`.
    fn start_periodic_tasks(&self, stop: &CancellationToken) -> TaskTracker {
        let Inner { leases, deliver, .. } = &*self.inner;
        let tasks = TaskTracker::new();
        let until_stop = || stop.clone();
        tasks.spawn(until_stop().run_until_cancelled_owned(lost_claims::run(leases.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(rescue::run(leases.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(suspended_tenants::run(leases.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(wake_listener::run(leases.db.clone(), leases.wake.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(expire_closed_lanes::run(self.inner.expiry.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(domain_checks::run(self.inner.domain_checks.clone())));
        tasks.spawn(
            until_stop().run_until_cancelled_owned(expired_suppressions::run(leases.db.clone(), leases.clock.clone())),
        );
        tasks.spawn(until_stop().run_until_cancelled_owned(tenant_deletion::run(
            leases.db.clone(),
            leases.clock.clone(),
            leases.restore_gate.clone(),
        )));
        tasks.spawn(until_stop().run_until_cancelled_owned(webhook_secrets::run(self.inner.webhook_secrets.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(cleanup::run(self.inner.cleanup.clone())));
        tasks.spawn(retention::run(self.inner.retention.clone(), until_stop()));
        tasks.spawn(until_stop().run_until_cancelled_owned(statistics::run(self.inner.statistics.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(statistics::sample(self.inner.statistics.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(statistics::delete_old(self.inner.statistics.clone())));
        tasks.spawn(until_stop().run_until_cancelled_owned(deliver.simulator.clone().run()));
        tasks.spawn({
            let (deliver, stop) = (deliver.clone(), stop.clone());
            async move {
                stop.cancelled().await;
                deliver.close();
            }
        });
        tasks.close();
        tasks
    }

    fn claim_loop(&self) -> ClaimLoop {
        let Inner { claim, deliver, gate, .. } = &*self.inner;
        ClaimLoop::new(claim.clone(), deliver.clone(), gate.clone())
    }

    /// Runs until no recipient is due and none is in flight. Recipients that are due later stay in the queue.
    pub async fn drain(&self) -> Result<(), DbError> {
        Box::pin(self.inner.expiry.once()).await?;
        self.claim_loop().drain().await
    }

    /// Posts all due events to webhook endpoints, as a running worker does periodically.
    pub async fn notify(&self) -> Result<(), DbError> {
        webhooks::drain(&self.inner.webhooks).await
    }

    /// Runs all due checks of senders' domains, as a running worker does periodically.
    pub async fn check_domains(&self) -> Result<(), DbError> {
        self.inner.domain_checks.once().await
    }

    /// Ends a worker that is not in [`run`](Self::run), such as one that was drained: waits for messages that are being
    /// sent, at most for the grace period, and releases the others. Only tests need it: `run` does the same after its
    /// own `stop`.
    pub async fn stop(&self) {
        self.inner.deliver.close();
        self.finish().await;
        self.leave().await;
    }

    async fn finish(&self) {
        let in_flight = &self.inner.leases.in_flight;
        let finish = async {
            while !in_flight.is_empty() {
                in_flight.released().await;
            }
        };
        if tokio::time::timeout(self.inner.grace, finish).await.is_err() {
            tracing::warn!(
                event = "shutdown_grace_exceeded",
                recipients = in_flight.len(),
                "the grace period is over; other workers rescue the leases of messages that are still being sent"
            );
        }
    }

    async fn leave(&self) {
        let Inner { leases, sender, .. } = &*self.inner;
        leases.identity.leave();
        sender.close().await;
        if let Err(error) = leases.identity.deregister(&leases.db, leases.clock.now()).await {
            tracing::warn!(
                event = "deregistration_failed",
                %error,
                "failed to deregister worker; its leases expire on their own"
            );
        }
    }

    /// Runs the due follow-ups of simulated deliveries once, as a running worker does periodically.
    pub async fn play_simulated_followups(&self) -> Result<(), DbError> {
        self.inner.deliver.simulator.play_due().await.map(|_| ())
    }

    /// Removes expired suppressions once, as a running worker does periodically. Returns how many.
    pub async fn remove_expired_suppressions(&self) -> Result<u64, DbError> {
        let Leases { db, clock, .. } = &*self.inner.leases;
        expired_suppressions::once(db, clock).await
    }

    /// Deletes unused blobs, abandoned uploads and idempotency keys of deleted messages once, as a running worker does
    /// periodically.
    pub async fn clean_up(&self) -> Result<CleanedUp, DbError> {
        match self.inner.cleanup.once().await {
            (done, None) => Ok(done),
            (_, Some(error)) => Err(error),
        }
    }

    /// Deletes everything whose retention period has passed, as a running worker does periodically. Returns `None` if another process
    /// deletes, or the restore guard forbids deletion.
    pub async fn delete_old_data(&self) -> Result<Option<Deleted>, DbError> {
        self.inner.retention.once(true).await
    }

    /// Counts all events that the statistics do not include yet, as a running worker does periodically. Returns how
    /// many.
    pub async fn count_events(&self) -> Result<i64, DbError> {
        self.inner.statistics.count().await
    }

    /// Samples the queue for the statistics, as a running worker does once a minute. Returns whether it did.
    pub async fn sample_queue(&self) -> Result<bool, DbError> {
        self.inner.statistics.sample_queue().await
    }

    /// Deletes old statistics once, as a running worker does periodically. Returns the number of rows.
    pub async fn remove_old_statistics(&self) -> Result<u64, DbError> {
        self.inner.statistics.remove_old().await
    }

    /// Deletes data of tenants until none can be deleted now, as a running worker does periodically.
    pub async fn delete_tenants(&self) -> Result<(), DbError> {
        let Leases { db, clock, restore_gate, .. } = &*self.inner.leases;
        tenant_deletion::once(db, clock, restore_gate).await
    }

    /// Loads the suspended tenants once, as a running worker does periodically.
    pub async fn load_suspended_tenants(&self) -> Result<(), DbError> {
        let Leases { db, suspended_tenants, .. } = &*self.inner.leases;
        suspended_tenants.load(db).await
    }

    /// Encrypts webhook secrets and removes old ones once, as a running worker does periodically.
    pub async fn encrypt_webhook_secrets(&self) -> Result<(), DbError> {
        self.inner.webhook_secrets.once().await.map(|_| ())
    }

    /// Releases the leases of dead workers once, as a running worker does periodically.
    pub async fn rescue_leases(&self) -> Result<RescuedLeases, DbError> {
        rescue::once(&self.inner.leases).await
    }

    /// Releases leases that no worker knows of once, as a running worker does periodically. Returns how many.
    pub async fn recover_leases(&self) -> Result<usize, DbError> {
        lost_claims::recover_all(&self.inner.leases).await
    }
}
