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
use crate::domain::records::retention::Class;
use family::Family;
use labels::{
    ConnectResult, DnsKind, DnsResult, InboundKind, LoginResult, ObjectOperation, ObjectResult, Outcome, PoolName,
    PoolRole, PoolState, Route, SpanResult, StatusClass, Stream, SubmissionResult, TlsPolicy, TlsVersion, Writer,
};
use registry::{Instrument as _, instruments};
pub use service::{SERVICE, ServiceMetrics};

const QUEUE_WAIT: &str = "postrider_queue_wait_seconds";
const GROUP_SIZE: &str = "postrider_journal_group_size";

instruments! {
    /// The metrics of this process.
    pub struct ProcessMetrics {
        /// Recipients of committed messages, without those of the simulator.
        accepted_recipients: Family<(Stream,), Counter> =
            "postrider_accepted_recipients_total", (Stream::Transactional,);
        /// Time from handing a message or batch to the group commit to the end of its commit.
        accept_to_commit: Histogram = "postrider_accept_to_commit_seconds";
        /// Messages and outcomes, or messages of batches, in one transaction of the group commit.
        group_size: Family<(Writer,), Histogram> = GROUP_SIZE, (Writer::Messages,);
        /// Time of a transaction of the group commit.
        group_commit: Family<(Writer,), Histogram> = "postrider_journal_commit_seconds", (Writer::Messages,);
        /// Recorded attempts for recipients by outcome, and recipients that ended without one.
        attempts: Family<(Stream, Route, Provider, Outcome), Counter> =
            "postrider_attempts_total", (Stream::Transactional, Route::Mx, Provider::Other, Outcome::Delivered);
        /// Recipients that bounced during an attempt.
        bounces: Family<(Stream, Provider, Category), Counter> =
            "postrider_bounces_total", (Stream::Transactional, Provider::Other, Category::Other);
        /// Time of an attempt.
        delivery_attempt: Family<(Stream, Provider), Histogram> =
            "postrider_delivery_attempt_seconds", (Stream::Transactional, Provider::Other);
        /// Time from a recipient's due time to its first attempt.
        queue_wait: Family<(Stream,), Histogram> = QUEUE_WAIT, (Stream::Transactional,);
        /// Open SMTP connections.
        smtp_connections: Family<(Provider,), Gauge> = "postrider_smtp_connections", (Provider::Other,);
        /// Opened SMTP sessions, and failures to open one.
        smtp_connects: Family<(Provider, ConnectResult), Counter> =
            "postrider_smtp_connects_total", (Provider::Other, ConnectResult::Ok);
        /// Time until an SMTP session was open, or had failed.
        smtp_connect: Family<(Provider,), Histogram> = "postrider_smtp_connect_seconds", (Provider::Other,);
        /// Opened SMTP sessions by TLS policy and version.
        tls_sessions: Family<(TlsPolicy, TlsVersion), Counter> =
            "postrider_tls_sessions_total", (TlsPolicy::Opportunistic, TlsVersion::Plain);
        /// Recipients that this process accepted and sent without a claim.
        handed_over: Counter = "postrider_handed_over_total";
        /// Claimed recipients.
        claimed: Counter = "postrider_claimed_total";
        /// Recipients whose leases this process took from dead workers.
        lease_reaps: Counter = "postrider_lease_reaps_total";
        /// Outcomes that were ignored, because their leases had moved to another worker.
        stale_completions: Counter = "postrider_stale_completions_total";
        /// Attempts for messages that were in flight at a crash.
        suspects: Counter = "postrider_suspects_total";
        /// DNS lookups, including those from the cache.
        dns_lookups: Family<(DnsKind, DnsResult), Counter> =
            "postrider_dns_lookups_total", (DnsKind::Mx, DnsResult::Ok);
        /// Time of a DNS lookup.
        dns_lookup: Family<(DnsKind,), Histogram> = "postrider_dns_lookup_seconds", (DnsKind::Mx,);
        /// Database connections of this process.
        db_pool_connections: Family<(PoolRole, PoolName, PoolState), Gauge> =
            "postrider_db_pool_connections", (PoolRole::Api, PoolName::Main, PoolState::Used);
        /// Time until a transaction had a database connection and had begun. Single statements are not counted.
        db_acquire: Family<(PoolName,), Histogram> = "postrider_db_acquire_seconds", (PoolName::Hot,);
        /// Times that the database became unavailable.
        db_outages: Counter = "postrider_db_outages_total";
        /// 0 while the database is unavailable to this process, otherwise 1.
        db_available: Gauge = "postrider_db_available";
        /// 1 while the restore guard keeps this process from sending, otherwise 0.
        restore_guard_holding: Gauge = "postrider_restore_guard_holding";
        /// Posts to webhook endpoints by class of the response.
        webhook_posts: Family<(StatusClass,), Counter> = "postrider_webhook_posts_total", (StatusClass::Success,);
        /// Time of a post to a webhook endpoint.
        webhook_post: Histogram = "postrider_webhook_post_seconds";
        /// Entries of the configured blocklists that name an address of this host.
        blocklist_listed: Gauge = "postrider_blocklist_listed";
        /// When the first certificate of the SMTP servers expires, in Unix time; 0 without a certificate.
        certificate_expiry: Gauge = "postrider_certificate_expiry_timestamp_seconds";
        /// Ended spans of traces, if traces are exported.
        trace_spans: Family<(SpanResult,), Counter> = "postrider_trace_spans_total", (SpanResult::Exported,);
        /// Received bounces, complaints that had an effect, and other messages; not about messages of the simulator.
        inbound_messages: Family<(InboundKind,), Counter> = "postrider_inbound_messages_total", (InboundKind::Dsn,);
        /// Messages that applications sent over SMTP: accepted and refused ones.
        submission_messages: Family<(SubmissionResult,), Counter> =
            "postrider_submission_messages_total", (SubmissionResult::Accepted,);
        /// Sign-ins of applications over SMTP.
        submission_logins: Family<(LoginResult,), Counter> =
            "postrider_submission_logins_total", (LoginResult::Accepted,);
        /// Requests to the object store of attachments.
        object_requests: Family<(ObjectOperation, ObjectResult), Counter> =
            "postrider_object_requests_total", (ObjectOperation::Put, ObjectResult::Ok);
        /// Time of a request to the object store of attachments, with its retries.
        object_request: Family<(ObjectOperation,), Histogram> =
            "postrider_object_request_seconds", (ObjectOperation::Put,);
        /// Weeks that this process dropped, because their retention period had passed.
        retention_weeks: Family<(Class,), Counter> = "postrider_retention_weeks_total", (Class::Content,);
        /// Contents and other rows that this process deleted one by one, for the same reason.
        retention_rows: Counter = "postrider_retention_rows_total";
    }
}

/// The metrics of this process.
pub static METRICS: LazyLock<ProcessMetrics> = LazyLock::new(|| {
    build_info();
    http::describe();
    let metrics = ProcessMetrics::new();
    register_attempts(&metrics.attempts);
    // A process that does not reach the database at its start ends.
    metrics.db_available.set(1.0);
    metrics
});

/// Registers the series that alert rules need from the start, because there are too many to register all: the first
/// increment of a series is not seen if it appears with it.
fn register_attempts(attempts: &Family<(Stream, Route, Provider, Outcome), Counter>) {
    for (stream, route) in Stream::ALL.into_iter().flat_map(|stream| [(stream, Route::Mx), (stream, Route::Relay)]) {
        attempts.get((stream, route, Provider::Other, Outcome::Delivered));
        attempts.get((stream, route, Provider::Other, Outcome::Relayed));
        for provider in Provider::ALL {
            attempts.get((stream, route, provider, Outcome::Uncertain));
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
    Gauge::describe(NAME, "Version of this process; always 1.");
    Gauge::register(NAME, labels).set(1.0);
}

/// Returns all metrics in the text format of Prometheus. Those of the whole service are absent until they have been
/// computed for the first time.
pub fn render() -> String {
    // Registers them, if nothing has been counted yet.
    LazyLock::force(&METRICS);
    registry::render()
}

/// Does periodic work. Without it, recorded durations would pile up in memory between two scrapes.
pub fn run_upkeep() {
    registry::run_upkeep();
}
