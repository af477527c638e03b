//! What a worker is given at its start. [`super::Worker::start`] divides it among the contexts of the shelves, each of which
//! names what its shelf uses: [`super::claim::ClaimContext`], [`super::outcome::RecordContext`],
//! [`super::deliver::DeliverContext`] and [`super::webhooks::WebhookContext`].

use std::sync::Arc;
use std::time::Duration;

use super::deliver::envelopes::Returns;
use crate::db::domains::cache::SenderCache;
use crate::dns::Asker;
use crate::domain::dns_records::Terms;
use crate::domain::fingerprint::Fingerprints;
use crate::domain::keyring::Keyring;
use crate::domain::retry::Policy;
use crate::domain::routing::RouteTable;
use crate::domain::unsubscribe::Links;
use crate::group_commit::Outcomes;
use crate::smtp;
use crate::webhook::Poster;

/// How a worker behaves.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Recipients in flight at one time.
    pub concurrency: usize,
    /// Connections of this process to one destination.
    pub connections: usize,
    /// Bytes of memory that large messages may use at one time.
    pub memory: u64,
    /// How long a worker may be silent before others release its leases.
    pub lease: Duration,
    /// When to retry and when to give up, unless a stream has its own policy.
    pub policy: Policy,
    /// Which route a message takes.
    pub routes: RouteTable,
    /// Where bounces go; without it, to the sender's address.
    pub returns: Option<Returns>,
    /// Creates unsubscribe links, if configured.
    pub links: Option<Links>,
    /// How long messages in flight may take on shutdown.
    pub grace: Duration,
    /// What senders' domains have to publish.
    pub publish: Terms,
    /// Fingerprints of the settings that have to be the same in all replicas.
    pub fingerprints: Fingerprints,
    /// Decrypts webhook secrets, if configured.
    pub keyring: Option<Keyring>,
}

/// The other parts of the service that a worker uses.
#[derive(Debug)]
pub struct Dependencies {
    /// Sends messages over SMTP.
    pub sender: Arc<smtp::Sender>,
    /// Posts to webhook endpoints.
    pub poster: Arc<Poster>,
    /// Caches the domains of senders and their DKIM keys.
    pub senders: Arc<SenderCache>,
    /// Queries the DNS for the records of senders' domains.
    pub dns: Asker,
    /// Passes outcomes to the group commit.
    pub outcomes: Arc<Outcomes>,
}
