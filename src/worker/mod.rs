//! Claims what is due, has it sent, and commits what came of it. The only place that joins the database with SMTP and with
//! webhooks.
//!
//! ```text
//! claim ─▶ deliver (one task a mail) ─▶ complete
//! ```
//!
//! No transaction is open while a mail is being sent: a claim leases recipients to this worker and commits; an outcome is
//! committed afterwards and counts only while the lease still stands. `heartbeat` keeps the leases, `reap` frees those of
//! workers that died, `suspects` finds out what they died of, `recover` finds what a lost answer hid, `wake` tells when
//! there is something to do, `bounds` spares claims what is gone, `expire` ends what waits in closed lanes beyond its time.
//! `hand_over` takes new mail of this process without a claim. `rooms` divides the hands among the lanes, `permits` holds what was granted of shared limits, `budget` what large mails
//! take up in memory, `suppress` leaves out who wants or can have no mail, `forget` removes suppressions that have expired,
//! `legs` makes the envelopes of a mail, `sign` signs it with its domain's keys, `alarms` tells of what is ours to mend, and `domains` checks what is published of
//! them. `learn` makes of outcomes what is known of destinations. `notify` posts events to webhook endpoints.

mod alarms;
mod claim;
mod deliver;
mod handoff;
mod lease;
mod maintenance;
mod outcome;
mod webhooks;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::clock::SharedClock;
use crate::db::senders::Senders;
use crate::db::splits::Splits;
use crate::db::{Db, DbError};
use crate::dns::Asker;
use crate::domain::fingerprint::Fingerprints;
use crate::domain::keyring::Keyring;
use crate::domain::publish::Terms;
use crate::domain::retry::Policy;
use crate::domain::routing::RouteTable;
use crate::domain::unsubscribe::Links;
use crate::journal::{Journal, Taker};
use crate::smtp;
use crate::telemetry::Seldom;
use crate::webhook::Poster;

use alarms::Alarms;
use claim::claimer::{self, Memory, Took};
use claim::lane_stats::LaneStats;
use claim::wake_listener;
pub use deliver::envelopes::Returns;
use deliver::memory_budget::MemoryBudget;
use deliver::signing::Signing;
use handoff::direct::DirectHandoff;
use handoff::gate::HandoffGate;
use lease::crash_quarantine::CrashQuarantine;
use lease::identity::Identity;
use lease::in_flight::InFlight;
use lease::permits::Permits;
use lease::{heartbeat, lost_claims, rescue};
use maintenance::expire_closed_lanes::Places;
use maintenance::{domain_checks, expire_closed_lanes, expired_suppressions, webhook_secrets};
use outcome::adaptive_limits::AdaptiveLimits;
use outcome::recorder::OutcomeRecorder;
use outcome::retry_policy_cache::RetryPolicyCache;

/// How a worker behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Recipients in hand at one time.
    pub concurrency: usize,
    /// Connections of this process to one destination.
    pub connections: usize,
    /// Octets that large mails may take up in memory at one time.
    pub memory: u64,
    /// How long a worker may be silent before others take over what it had.
    pub lease: Duration,
    /// When to try again, and when to give up, where a stream does not say otherwise.
    pub policy: Policy,
    /// Which way mail goes.
    pub routes: RouteTable,
    /// Where bounces go; without it, to the sender's address.
    pub returns: Option<Returns>,
    /// Makes links to unsubscribe by, where that is configured.
    pub links: Option<Links>,
    /// On shutdown, how long mails that are being sent may take.
    pub grace: Duration,
    /// What is to be published of senders' domains.
    pub publish: Terms,
    /// Of the settings that have to be the same in all replicas.
    pub fingerprints: Fingerprints,
    /// Decrypts webhook secrets, where that is configured.
    pub keyring: Option<Keyring>,
}

/// What a worker works with.
#[derive(Debug)]
pub struct Tools {
    /// Sends mail.
    pub sender: Arc<smtp::Sender>,
    /// Posts to webhook endpoints.
    pub poster: Arc<Poster>,
    /// Knows what signs.
    pub senders: Arc<Senders>,
    /// Asks for what is published of senders' domains.
    pub dns: Asker,
    /// Commits outcomes, and offers mail that this process has accepted.
    pub journal: Arc<Journal>,
}

/// What the tasks of one worker share.
#[derive(Debug)]
struct Parts {
    db: Db,
    clock: SharedClock,
    sender: Arc<smtp::Sender>,
    poster: Arc<Poster>,
    signing: Signing,
    dns: Asker,
    /// Calls to the database for webhooks at one time: mail shares its connections.
    webhook_calls: Semaphore,
    settings: Settings,
    identity: Identity,
    policies: RetryPolicyCache,
    in_flight: InFlight,
    quarantine: CrashQuarantine,
    completer: OutcomeRecorder,
    journal: Arc<Journal>,
    lane_stats: Arc<LaneStats>,
    gate: HandoffGate,
    permits: Permits,
    splits: Arc<Splits>,
    places: Places,
    budget: MemoryBudget,
    alarms: Alarms,
    /// Webhook secrets that cannot be decrypted.
    secret_faults: Seldom,
    wake: Arc<Notify>,
    /// Told when a claim was not answered.
    suspect: Notify,
    /// Cancelled when no mail is to be begun any more.
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl Parts {
    /// From now on no mail is begun: what waits for a connection, for memory or for its turn is given back at once.
    fn close(&self) {
        self.closing.cancel();
        self.sender.turn_away();
    }
}

/// One worker. One a process, however many mails it sends at a time.
#[derive(Debug, Clone)]
pub struct Worker {
    parts: Arc<Parts>,
}

/// Connections to the database that webhooks may use at one time.
const WEBHOOK_CALLS: usize = 4;
/// Claims begin at least so far apart while there is something to claim: under load each takes what has come meanwhile, and
/// costs 2 ms of Postgres' time however little that is. The first one after a rest begins at once.
const MIN_CLAIM_INTERVAL: Duration = Duration::from_millis(10);
/// How long a worker that hears nothing waits before it looks by itself.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The same for one whose hands are full, and who hears of it when one is free.
const FULL_POLL_INTERVAL: Duration = Duration::from_secs(10);

impl Worker {
    /// Makes a worker known to the database. `wake` tells it of messages committed in this process.
    pub async fn start(
        db: Db,
        clock: SharedClock,
        tools: Tools,
        settings: Settings,
        wake: Arc<Notify>,
    ) -> Result<Self, DbError> {
        let Tools { sender, poster, senders, dns, journal } = tools;
        let tasks = TaskTracker::new();
        let in_flight = InFlight::new(settings.concurrency);
        let (lane_stats, splits) = (Arc::new(LaneStats::default()), Arc::new(Splits::new(db.clone())));
        let learner = AdaptiveLimits {
            db: db.clone(),
            clock: clock.clone(),
            in_flight: in_flight.clone(),
            sender: sender.clone(),
            lane_stats: lane_stats.clone(),
            splits: splits.clone(),
            wake: wake.clone(),
            known: Mutex::default(),
        };
        let parts = Parts {
            completer: OutcomeRecorder::start(learner, journal.clone(), &tasks),
            journal,
            policies: RetryPolicyCache::load(&db, settings.policy.clone(), clock.now()).await?,
            quarantine: CrashQuarantine::new(settings.concurrency),
            lane_stats,
            gate: HandoffGate::default(),
            permits: Permits::default(),
            splits,
            places: Places::default(),
            identity: Identity::register(&db, settings.lease, settings.fingerprints.clone()).await?,
            budget: MemoryBudget::new(settings.memory),
            alarms: Alarms::default(),
            secret_faults: Seldom::default(),
            db,
            clock,
            sender,
            poster,
            signing: Signing::new(senders),
            dns,
            webhook_calls: Semaphore::new(WEBHOOK_CALLS),
            settings,
            in_flight,
            wake,
            suspect: Notify::new(),
            closing: CancellationToken::new(),
            tasks,
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// Works until `stop`, then finishes what is being sent and gives back what is not.
    pub async fn run(&self, stop: CancellationToken) {
        // To the very end, and not only until `stop`: others would take over, and send again, what is still sent here.
        // And no longer, should this end in a panic: what nobody works on must not stay leased.
        let _beat = AbortOnDropHandle::new(tokio::spawn(heartbeat::run(self.parts.clone())));
        let chores = TaskTracker::new();
        chores.spawn(stop.clone().run_until_cancelled_owned(lost_claims::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(rescue::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(wake_listener::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(expire_closed_lanes::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(domain_checks::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(expired_suppressions::run(self.parts.clone())));
        chores.spawn(stop.clone().run_until_cancelled_owned(webhook_secrets::run(self.parts.clone())));
        chores.spawn({
            let (parts, stop) = (self.parts.clone(), stop.clone());
            async move {
                stop.cancelled().await;
                parts.close();
            }
        });
        chores.close();
        let notifying = AbortOnDropHandle::new(tokio::spawn(webhooks::run(self.parts.clone(), stop.clone())));
        // For as long as it runs, new mail is offered to it.
        let taker: Arc<dyn Taker> = Arc::new(DirectHandoff(self.parts.clone()));
        self.parts.journal.enlist(Arc::downgrade(&taker));
        let mut memory = Memory::default();
        let failed = Seldom::default();
        while !stop.is_cancelled() {
            let begun = tokio::time::Instant::now();
            let took = claimer::some(&self.parts, &mut memory).await;
            let pause = match &took {
                Ok(Took::Rows) => {
                    tokio::time::sleep_until(begun + MIN_CLAIM_INTERVAL).await;
                    continue;
                }
                Ok(Took::Nothing | Took::All) => memory
                    .until_open(self.parts.clock.now())
                    .map_or(IDLE_POLL_INTERVAL, |wait| wait.min(IDLE_POLL_INTERVAL)),
                Ok(Took::NoRoom) => FULL_POLL_INTERVAL,
                Err(error) => {
                    // Every second while the database is away.
                    if let Some(times) = failed.note(tokio::time::Instant::now()) {
                        tracing::warn!(event = "claim_failed", %error, times, "failed to claim; trying again");
                    }
                    IDLE_POLL_INTERVAL
                }
            };
            // Nobody waits for a hand.
            let is_idle = matches!(took, Ok(Took::All));
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.parts.wake.notified(), if pause != FULL_POLL_INTERVAL => {}
                () = self.parts.in_flight.freed(), if !is_idle => {}
                () = self.parts.in_flight.given_back() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        chores.wait().await;
        let ((), notified) = tokio::join!(self.finish(), notifying);
        if notified.is_err() {
            tracing::error!("the posting of webhooks had ended in a panic; other workers take it over now");
        }
        self.leave().await;
    }

    /// Works until nothing is due and nothing in hand. What is due later stays where it is.
    pub async fn drain(&self) -> Result<(), DbError> {
        let mut memory = Memory::default();
        Box::pin(expire_closed_lanes::once(&self.parts)).await?;
        loop {
            // Before the claim: what is given back while it looks may be due again.
            let were_empty = self.parts.in_flight.is_empty();
            match Box::pin(claimer::some(&self.parts, &mut memory)).await? {
                Took::Rows => {}
                Took::Nothing | Took::All if were_empty => return Ok(()),
                Took::Nothing | Took::All if self.parts.in_flight.is_empty() => {}
                Took::Nothing | Took::All | Took::NoRoom => self.parts.in_flight.freed().await,
            }
        }
    }

    /// Posts all events that are due to webhook endpoints, as it does regularly while it runs.
    pub async fn notify(&self) -> Result<(), DbError> {
        webhooks::drain(&self.parts).await
    }

    /// Checks the records of all senders' domains whose turn it is, as it does regularly while it runs.
    pub async fn check_domains(&self) -> Result<(), DbError> {
        domain_checks::once(&self.parts).await
    }

    /// Waits for what is being sent, at most for the grace period, and gives back the rest.
    pub async fn stop(&self) {
        self.parts.close();
        self.finish().await;
        self.leave().await;
    }

    async fn finish(&self) {
        let finish = async {
            while !self.parts.in_flight.is_empty() {
                self.parts.in_flight.freed().await;
            }
        };
        if tokio::time::timeout(self.parts.settings.grace, finish).await.is_err() {
            let left = self.parts.in_flight.len();
            tracing::warn!(left, "the grace period is over; recipients still being sent go to other workers");
        }
    }

    async fn leave(&self) {
        self.parts.identity.leave();
        self.parts.sender.close().await;
        if let Err(error) = self.parts.identity.deregister(&self.parts.db, self.parts.clock.now()).await {
            tracing::warn!(%error, "could not sign off; others take over when the lease ends");
        }
    }

    /// Removes suppressions that have expired, once, as a chore does regularly. Answers how many.
    pub async fn forget_expired(&self) -> Result<u64, DbError> {
        expired_suppressions::once(&self.parts).await
    }

    /// Encrypts webhook secrets and removes old ones, once, as a chore does regularly.
    pub async fn keep_secrets(&self) -> Result<(), DbError> {
        webhook_secrets::once(&self.parts).await.map(|_| ())
    }

    /// Frees what dead workers left behind, once, as the reaper does regularly.
    pub async fn reap(&self) -> Result<crate::db::workers::Reaped, DbError> {
        rescue::once(&self.parts).await
    }

    /// Releases what no worker would come back to, once, as a chore does regularly. Returns how much there was.
    pub async fn recover(&self) -> Result<usize, DbError> {
        lost_claims::look(&self.parts).await
    }
}
