//! Metrics of this process, for Prometheus. `docs/metrics.md` describes each.
//!
//! - [`METRICS`] has the instruments: code that counts something names a field, and updates an atomic number.
//! - [`SERVICE`] has the gauges of the whole service, which one process computes from the database every 15 seconds and
//!   every process exports.
//! - No label has an address, a domain, a tenant, or a name that a client chooses: the values of every label are closed
//!   lists ([`labels`]), the routes of the API, or the names of statements.

pub mod family;
pub mod http;
pub mod labels;
pub mod registry;
mod service;
pub mod statements;

use std::sync::LazyLock;

use metrics::{Counter, Gauge, Histogram};

use crate::domain::bounce::Category;
use crate::domain::provider::Provider;
use family::Family;
use labels::{
    ConnectResult, DnsKind, DnsResult, InboundKind, Outcome, PoolName, PoolState, Route, StatusClass, Stream,
    TlsPolicy, TlsVersion, Writer,
};
use registry::{Instrument as _, single};
pub use service::{SERVICE, ServiceMetrics};

const QUEUE_WAIT_SECONDS: &str = "postrider_queue_wait_seconds";
const GROUP_SIZE: &str = "postrider_journal_group_size";

/// The metrics of this process.
#[derive(Debug)]
pub struct ProcessMetrics {
    /// Recipients of messages that were committed.
    pub accepted_recipients: Family<(Stream,), Counter>,
    /// Time from handing a message to the group commit to the end of its commit.
    pub accept_to_commit: Histogram,
    /// Messages and outcomes, or batches, in one transaction of the group commit.
    pub group_size: Family<(Writer,), Histogram>,
    /// Time of a transaction of the group commit.
    pub group_commit: Family<(Writer,), Histogram>,
    /// Attempts for recipients by outcome, and recipients that ended without an attempt.
    pub attempts: Family<(Stream, Route, Provider, Outcome), Counter>,
    /// Recipients that bounced during an attempt.
    pub bounces: Family<(Stream, Provider, Category), Counter>,
    /// Time of an attempt.
    pub delivery_attempt: Family<(Stream, Provider), Histogram>,
    /// Time from the due time of a recipient to the first attempt.
    pub queue_wait: Family<(Stream,), Histogram>,
    /// Open SMTP connections.
    pub smtp_connections: Family<(Provider,), Gauge>,
    /// Opened SMTP sessions, and failures to open one.
    pub smtp_connects: Family<(Provider, ConnectResult), Counter>,
    /// Time to open an SMTP session.
    pub smtp_connect: Family<(Provider,), Histogram>,
    /// Recipients that were sent from memory, without a claim.
    pub handed_over: Counter,
    /// Claimed recipients.
    pub claimed: Counter,
    /// Recipients whose leases were rescued from dead workers.
    pub lease_reaps: Counter,
    /// Outcomes that arrived after their leases had moved.
    pub stale_completions: Counter,
    /// Attempts for messages that were in flight at a crash.
    pub suspects: Counter,
    /// Opened SMTP sessions by their encryption.
    pub tls_sessions: Family<(TlsPolicy, TlsVersion), Counter>,
    /// DNS lookups.
    pub dns_lookups: Family<(DnsKind, DnsResult), Counter>,
    /// Time of a DNS lookup.
    pub dns_lookup: Family<(DnsKind,), Histogram>,
    /// Connections of the pools.
    pub db_pool_connections: Family<(PoolName, PoolState), Gauge>,
    /// Time until a connection is available, or a transaction has begun.
    pub db_acquire: Family<(PoolName,), Histogram>,
    /// Outages of the database.
    pub db_outages: Counter,
    /// Attempts to post events to webhook endpoints.
    pub webhook_posts: Family<(StatusClass,), Counter>,
    /// Time of such a post.
    pub webhook_post: Histogram,
    /// Received bounces, complaints and other messages.
    pub inbound_mails: Family<(InboundKind,), Counter>,
}

/// The metrics of this process.
pub static METRICS: LazyLock<ProcessMetrics> = LazyLock::new(ProcessMetrics::new);

impl ProcessMetrics {
    fn new() -> Self {
        build_info();
        http::describe();
        let (stream, provider) = (Stream::Transactional, Provider::Other);
        Self {
            accepted_recipients: Family::new(
                "postrider_accepted_recipients_total",
                "Recipients of committed messages",
                (stream,),
            ),
            accept_to_commit: single(
                "postrider_accept_to_commit_seconds",
                "Time from handing a message or batch to the group commit to the end of its commit",
            ),
            group_size: Family::new(
                GROUP_SIZE,
                "Messages and outcomes, or messages of batches, in one transaction",
                (Writer::Messages,),
            ),
            group_commit: Family::new(
                "postrider_journal_commit_seconds",
                "Time of a transaction of the group commit",
                (Writer::Messages,),
            ),
            attempts: Family::new(
                "postrider_attempts_total",
                "Attempts for recipients by outcome, and recipients that ended without one",
                (stream, Route::Mx, provider, Outcome::Delivered),
            ),
            bounces: Family::new(
                "postrider_bounces_total",
                "Recipients that bounced during an attempt",
                (stream, provider, Category::Other),
            ),
            delivery_attempt: Family::new(
                "postrider_delivery_attempt_seconds",
                "Time of an attempt",
                (stream, provider),
            ),
            queue_wait: Family::new(
                QUEUE_WAIT_SECONDS,
                "Time from a recipient's due time to its first attempt",
                (stream,),
            ),
            smtp_connections: Family::new("postrider_smtp_connections", "Open SMTP connections", (provider,)),
            smtp_connects: Family::new(
                "postrider_smtp_connects_total",
                "Opened SMTP sessions, and failures to open one",
                (provider, ConnectResult::Ok),
            ),
            smtp_connect: Family::new("postrider_smtp_connect_seconds", "Time to open an SMTP session", (provider,)),
            handed_over: single(
                "postrider_handed_over_total",
                "Recipients that this process accepted and sent without a claim",
            ),
            claimed: single("postrider_claimed_total", "Claimed recipients"),
            lease_reaps: single(
                "postrider_lease_reaps_total",
                "Recipients whose leases this process took from dead workers",
            ),
            stale_completions: single(
                "postrider_stale_completions_total",
                "Outcomes that were ignored because their leases had moved to another worker",
            ),
            suspects: single("postrider_suspects_total", "Attempts for messages that were in flight at a crash"),
            tls_sessions: Family::new(
                "postrider_tls_sessions_total",
                "Opened SMTP sessions by TLS policy and version",
                (TlsPolicy::Opportunistic, TlsVersion::Plain),
            ),
            dns_lookups: Family::new(
                "postrider_dns_lookups_total",
                "DNS lookups, including those from the cache",
                (DnsKind::Mx, DnsResult::Ok),
            ),
            dns_lookup: Family::new("postrider_dns_lookup_seconds", "Time of a DNS lookup", (DnsKind::Mx,)),
            db_pool_connections: Family::new(
                "postrider_db_pool_connections",
                "Database connections of this process",
                (PoolName::Main, PoolState::Used),
            ),
            db_acquire: Family::new(
                "postrider_db_acquire_seconds",
                "Time until a connection was available and a transaction had begun",
                (PoolName::Hot,),
            ),
            db_outages: single("postrider_db_outages_total", "Times that the database became unavailable"),
            webhook_posts: Family::new(
                "postrider_webhook_posts_total",
                "Posts to webhook endpoints by class of the response",
                (StatusClass::Success,),
            ),
            webhook_post: single("postrider_webhook_post_seconds", "Time of a post to a webhook endpoint"),
            inbound_mails: Family::new(
                "postrider_inbound_mails_total",
                "Received bounces, complaints and other messages",
                (InboundKind::Dsn,),
            ),
        }
    }
}

/// Exports the version as labels of a gauge that is always 1.
fn build_info() {
    const NAME: &str = "postrider_build_info";
    let labels = vec![
        metrics::Label::from_static_parts("version", env!("CARGO_PKG_VERSION")),
        metrics::Label::from_static_parts("commit", option_env!("POSTRIDER_COMMIT").unwrap_or("unknown")),
    ];
    Gauge::describe(NAME, "Version of this process; always 1");
    Gauge::register(NAME, labels).set(1.0);
}

/// Returns all metrics in the text format of Prometheus.
pub fn render() -> String {
    // Registers them, if nothing has been counted yet.
    LazyLock::force(&METRICS);
    LazyLock::force(&SERVICE);
    registry::render()
}

/// Does periodic work. Without it, recorded durations would pile up in memory between two scrapes.
pub fn run_upkeep() {
    registry::run_upkeep();
}
