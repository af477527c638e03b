//! The settings and dependencies of a worker. [`super::Worker::start`] divides them among the contexts of the
//! submodules: [`super::claim::ClaimContext`], [`super::outcome::RecordContext`], [`super::deliver::DeliverContext`]
//! and [`super::webhooks::WebhookContext`].

use std::sync::Arc;
use std::time::Duration;

use super::deliver::envelopes::Returns;
use crate::db::RestoreGate;
use crate::db::changes::Caches;
use crate::db::domains::cache::SenderCache;
use crate::dns::UncachedResolver;
use crate::domain::delivery::retry::Policy;
use crate::domain::event::resend::Mapping;
use crate::domain::installation::fingerprint::Fingerprints;
use crate::domain::installation::keyring::Keyring;
use crate::domain::message::unsubscribe::Links;
use crate::domain::records::retention::Periods;
use crate::domain::routing::RouteTable;
use crate::domain::sender_domain::dns_records::DnsSettings;
use crate::group_commit::Outcomes;
use crate::rendering::Renderer;
use crate::simulator::Simulator;
use crate::smtp;
use crate::webhook::Poster;

/// The settings of a worker.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum number of SMTP transactions at a time.
    pub concurrency: usize,
    /// Maximum number of connections of this process to one destination.
    pub connections: usize,
    /// Maximum number of bytes of memory that large messages may use together.
    pub memory: u64,
    /// How long a worker may go without a heartbeat before others release its leases.
    pub lease: Duration,
    /// When to retry and when to give up, unless a stream has its own policy.
    pub policy: Policy,
    /// Decides through which route a message is sent.
    pub routes: RouteTable,
    /// Return paths for bounces; without them, bounces go to the sender's address.
    pub returns: Option<Returns>,
    /// Creates unsubscribe links, if configured.
    pub links: Option<Links>,
    /// How long messages in flight may take on shutdown.
    pub grace: Duration,
    /// Configured values in the DNS records of sender domains.
    pub dns_settings: DnsSettings,
    /// Fingerprints of the settings that have to be the same in all replicas.
    pub fingerprints: Fingerprints,
    /// Decrypts webhook secrets, if configured.
    pub keyring: Option<Keyring>,
    /// How long after its last use a blob that no message refers to is kept.
    pub unused_blobs: Duration,
    /// How long SMTP conversations are kept.
    pub conversations: Duration,
    /// How long other data is kept.
    pub periods: Periods,
    /// Which events are posted to webhook endpoints with Resend's format.
    pub resend_events: Mapping,
}

/// The other parts of the service that a worker uses.
#[derive(Debug)]
pub struct Dependencies {
    /// Sends messages over SMTP.
    pub sender: Arc<smtp::Sender>,
    /// Plays the last hop of messages to simulator addresses.
    pub simulator: Arc<Simulator>,
    /// Posts to webhook endpoints.
    pub poster: Arc<Poster>,
    /// Caches the domains of senders and their DKIM keys.
    pub senders: Arc<SenderCache>,
    /// The caches of the process.
    pub caches: Arc<Caches>,
    /// Queries the DNS for the records of senders' domains.
    pub dns: UncachedResolver,
    /// Passes outcomes to the group commit.
    pub outcomes: Arc<Outcomes>,
    /// Renders the bodies of messages of bulks.
    pub renderer: Arc<Renderer>,
    /// Closed while the restore guard holds: nothing is claimed, handed off or posted.
    pub restore_gate: Arc<RestoreGate>,
}
