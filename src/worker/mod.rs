//! Claims what is due, delivers it, and records the outcomes. The only module that joins the database with SMTP and with
//! webhooks.
//!
//! ```text
//! claim ─▶ deliver (one task per message) ─▶ outcome
//! ```
//!
//! No transaction is open while a message is being sent: a claim leases recipients to this worker and commits; an outcome
//! is committed afterwards, and counts only while the lease still stands.
//!
//! | shelf | what it does | may import |
//! |---|---|---|
//! | `lease` | holds, renews, releases and recovers leases | |
//! | `claim` | claims recipients, each lane up to its quota | `lease` |
//! | `outcome` | records outcomes and adapts limits to them | `claim`, `lease` |
//! | `deliver` | loads, prepares and sends messages | `outcome`, `claim`, `lease` |
//! | `handoff` | sends new messages of this process without a claim | `deliver`, `outcome`, `claim`, `lease` |
//! | `maintenance` | periodic work beside the deliveries | `deliver`, `outcome`, `claim`, `lease` |
//! | `webhooks` | posts events to webhook endpoints | `lease` |
//!
//! The files of this folder join the shelves and may import all of them, and no shelf imports them: `context` is what a
//! worker is given, `claim_loop` claims and starts deliveries. `tests/it/repository/layers.rs` checks both rules.

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
use crate::db::workers::Reaped;
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
use deliver::memory_budget::MemoryBudget;
use deliver::signing::Signing;
use handoff::direct::DirectHandoff;
use handoff::gate::HandoffGate;
use lease::crash_quarantine::CrashQuarantine;
use lease::identity::Identity;
use lease::in_flight::InFlight;
use lease::permits::Permits;
use lease::{Leases, heartbeat, lost_claims, rescue};
use maintenance::domain_checks::{self, DomainChecks};
use maintenance::expire_closed_lanes::{self, ClosedLaneExpiry};
use maintenance::expired_suppressions;
use maintenance::webhook_secrets::{self, WebhookSecrets};
use outcome::RecordContext;
use outcome::recorder::OutcomeRecorder;
use outcome::retry_policy_cache::RetryPolicyCache;
use webhooks::WebhookContext;

/// A worker. There is one per process, however many messages it sends at a time.
#[derive(Debug, Clone)]
pub struct Worker {
    shelves: Arc<Shelves>,
}

/// The contexts of the shelves, and the chores.
#[derive(Debug)]
struct Shelves {
    leases: Arc<Leases>,
    claim: Arc<ClaimContext>,
    deliver: Arc<DeliverContext>,
    webhooks: Arc<WebhookContext>,
    gate: Arc<HandoffGate>,
    handoff: Arc<DirectHandoff>,
    expiry: Arc<ClosedLaneExpiry>,
    domain_checks: Arc<DomainChecks>,
    webhook_secrets: Arc<WebhookSecrets>,
    sender: Arc<smtp::Sender>,
    grace: Duration,
}

impl Worker {
    /// Registers a worker in the database. `wake` notifies it of messages committed in this process.
    pub async fn start(
        db: Db,
        clock: SharedClock,
        dependencies: Dependencies,
        settings: Settings,
        wake: Arc<Notify>,
    ) -> Result<Self, DbError> {
        let Dependencies { sender, poster, senders, dns, outcomes } = dependencies;
        let retry_policies = RetryPolicyCache::load(&db, settings.policy, clock.now()).await?;
        let leases = Arc::new(Leases {
            identity: Identity::register(&db, settings.lease, settings.fingerprints).await?,
            in_flight: InFlight::new(settings.concurrency),
            permits: Permits::default(),
            duration: settings.lease,
            claim_lost: Notify::new(),
            db: db.clone(),
            clock: clock.clone(),
            wake,
        });
        let (lane_stats, splits) = (Arc::new(LaneStats::default()), Arc::new(DedicatedLanes::new(db.clone())));
        let record = Arc::new(RecordContext {
            db: db.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            lane_stats: lane_stats.clone(),
            sender: sender.clone(),
            splits: splits.clone(),
        });
        let claim = Arc::new(ClaimContext {
            db: db.clone(),
            clock: clock.clone(),
            leases: leases.clone(),
            lane_stats,
            sender: sender.clone(),
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
            signing: Signing::new(senders),
            retry_policies,
            quarantine: CrashQuarantine::new(settings.concurrency),
            memory: MemoryBudget::new(settings.memory),
            splits,
            routes: settings.routes,
            returns: settings.returns,
            links: settings.links,
            preparation_failures: KeyedLogLimit::new(Duration::from_mins(1)),
            closing: CancellationToken::new(),
            tasks,
        });
        let webhooks = WebhookContext::new(leases.clone(), poster, settings.keyring.clone(), settings.grace);
        let secrets = WebhookSecrets { db: db.clone(), clock: clock.clone(), keyring: settings.keyring };
        let gate = Arc::new(HandoffGate::default());
        let handoff = DirectHandoff { claim: claim.clone(), deliver: deliver.clone(), gate: gate.clone() };
        let shelves = Shelves {
            leases,
            claim,
            webhooks: Arc::new(webhooks),
            gate,
            handoff: Arc::new(handoff),
            expiry: Arc::new(ClosedLaneExpiry::new(deliver.clone())),
            domain_checks: Arc::new(DomainChecks { db, clock, dns, terms: settings.publish }),
            webhook_secrets: Arc::new(secrets),
            deliver,
            sender,
            grace: settings.grace,
        };
        Ok(Self { shelves: Arc::new(shelves) })
    }

    /// Returns what the group commit needs of this worker; `outcomes` is the other end of
    /// [`Dependencies::outcomes`]. New messages are offered to it from its first claim to the end of its
    /// [`run`](Self::run).
    pub fn local(&self, outcomes: PendingOutcomes) -> LocalWorker {
        let Shelves { leases, handoff, .. } = &*self.shelves;
        let consumer = Arc::downgrade(handoff);
        LocalWorker { outcomes, claims: leases.clone(), consumer }
    }

    /// Works until `stop`, then finishes what is being sent and releases the rest.
    pub async fn run(&self, stop: CancellationToken) {
        let shelves = &self.shelves;
        // To the very end, and not only until `stop`: other workers would otherwise take over, and send again, what is still
        // being sent here. It ends with a panic too, so that nothing stays leased without being worked on.
        let _heartbeat = AbortOnDropHandle::new(tokio::spawn(heartbeat::run(shelves.leases.clone())));
        let chores = self.start_chores(&stop);
        let webhooks = AbortOnDropHandle::new(tokio::spawn(webhooks::run(shelves.webhooks.clone(), stop.clone())));
        self.claim_loop().run(&stop, &shelves.leases.wake).await;
        chores.wait().await;
        let ((), ended) = tokio::join!(self.finish(), webhooks);
        if ended.is_err() {
            tracing::error!(
                event = "webhooks_panicked",
                "webhook deliveries ended in a panic; other workers continue with them now"
            );
        }
        self.leave().await;
    }

    /// Starts the periodic work, which ends with `stop`.
    fn start_chores(&self, stop: &CancellationToken) -> TaskTracker {
        let Shelves { leases, deliver, .. } = &*self.shelves;
        let chores = TaskTracker::new();
        let until_stop = || stop.clone();
        chores.spawn(until_stop().run_until_cancelled_owned(lost_claims::run(leases.clone())));
        chores.spawn(until_stop().run_until_cancelled_owned(rescue::run(leases.clone())));
        chores
            .spawn(until_stop().run_until_cancelled_owned(wake_listener::run(leases.db.clone(), leases.wake.clone())));
        chores.spawn(until_stop().run_until_cancelled_owned(expire_closed_lanes::run(self.shelves.expiry.clone())));
        chores.spawn(until_stop().run_until_cancelled_owned(domain_checks::run(self.shelves.domain_checks.clone())));
        chores.spawn(
            until_stop().run_until_cancelled_owned(expired_suppressions::run(leases.db.clone(), leases.clock.clone())),
        );
        chores
            .spawn(until_stop().run_until_cancelled_owned(webhook_secrets::run(self.shelves.webhook_secrets.clone())));
        chores.spawn({
            let (deliver, stop) = (deliver.clone(), stop.clone());
            async move {
                stop.cancelled().await;
                deliver.close();
            }
        });
        chores.close();
        chores
    }

    fn claim_loop(&self) -> ClaimLoop {
        let Shelves { claim, deliver, gate, .. } = &*self.shelves;
        ClaimLoop::new(claim.clone(), deliver.clone(), gate.clone())
    }

    /// Works until nothing is due and nothing in flight. What is due later stays in the queue.
    pub async fn drain(&self) -> Result<(), DbError> {
        Box::pin(self.shelves.expiry.once()).await?;
        self.claim_loop().drain().await
    }

    /// Posts all due events to webhook endpoints, as a running worker does periodically.
    pub async fn notify(&self) -> Result<(), DbError> {
        webhooks::drain(&self.shelves.webhooks).await
    }

    /// Runs all due checks of senders' domains, as a running worker does periodically.
    pub async fn check_domains(&self) -> Result<(), DbError> {
        self.shelves.domain_checks.once().await
    }

    /// Ends a worker that is not in [`run`](Self::run), such as one that was drained: waits for what is being sent, at most
    /// for the grace period, and releases the rest. Only tests need it: `run` does the same after its own `stop`.
    pub async fn stop(&self) {
        self.shelves.deliver.close();
        self.finish().await;
        self.leave().await;
    }

    async fn finish(&self) {
        let in_flight = &self.shelves.leases.in_flight;
        let finish = async {
            while !in_flight.is_empty() {
                in_flight.released().await;
            }
        };
        if tokio::time::timeout(self.shelves.grace, finish).await.is_err() {
            tracing::warn!(
                event = "shutdown_grace_exceeded",
                recipients = in_flight.len(),
                "the grace period is over; other workers take over recipients that are still being sent"
            );
        }
    }

    async fn leave(&self) {
        let Shelves { leases, sender, .. } = &*self.shelves;
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

    /// Removes expired suppressions once, as a running worker does periodically. Returns how many.
    pub async fn forget_expired(&self) -> Result<u64, DbError> {
        let Leases { db, clock, .. } = &*self.shelves.leases;
        expired_suppressions::once(db, clock).await
    }

    /// Encrypts webhook secrets and removes old ones once, as a running worker does periodically.
    pub async fn keep_secrets(&self) -> Result<(), DbError> {
        self.shelves.webhook_secrets.once().await.map(|_| ())
    }

    /// Releases the leases of dead workers once, as a running worker does periodically.
    pub async fn reap(&self) -> Result<Reaped, DbError> {
        rescue::once(&self.shelves.leases).await
    }

    /// Releases leases that no worker knows of once, as a running worker does periodically. Returns how many.
    pub async fn recover(&self) -> Result<usize, DbError> {
        lost_claims::recover_all(&self.shelves.leases).await
    }
}
