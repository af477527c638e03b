//! The HTTP API: all routes in one list, one module per resource. Handlers contain no SMTP and no SQL. Errors are RFC
//! 9457 problems, which only `error` builds; for the API that is compatible with Resend's, `resend` translates them.
//! The steps to add a resource are in `CONTRIBUTING.md`.

mod audit;
mod auth;
mod blobs;
mod delivery;
mod domains;
mod error;
mod events;
mod in_process;
mod inbound;
mod inbound_routes;
mod keys;
mod lanes;
mod layer;
mod limits;
mod located;
mod messages;
mod openapi;
mod ops;
mod page;
mod privacy;
mod received;
mod request;
mod resend;
mod response;
mod server;
mod service;
mod statistics;
mod streams;
mod submission;
mod suppressions;
mod templates;
mod tenants;
mod unsubscribe;
mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accept::Acceptor;
use crate::accept::request::Limits;
use crate::clock::SharedClock;
use crate::db::changes::Outdated;
use crate::db::{Db, RestoreGate};
use crate::dev::inbox::Inbox;
use crate::domain::key::Cell;
use crate::domain::message::unsubscribe::Links;
use crate::domain::records::retention::Periods;
use crate::feedback::Feedback;
use crate::feedback::receiving::Receiver;
use crate::fetch::Fetcher;
use crate::rendering::Renderer;

pub use audit::NOT_AUDITED;
use auth::KeyCache;
pub use delivery::{Delivery, RelayView, RouteInfo};
pub use domains::Domains;
pub use error::{ApiError, Problem, ProblemCode};
use events::EventNotifier;
pub use in_process::{InProcessApi, KnownKey, SignedIn};
use layer::request_id::ApiLayer;
pub use limits::allowances::Allowances;
use limits::concurrency_limit::ConcurrencyLimit;
pub use openapi::document;
use openapi::responses::{AuthErrors, InvalidParameter, JsonErrors, MessageErrors, NotFound};
pub use ops::health::healthz;
pub use ops::readiness::Readiness;
pub use ops::{MetricsAccess, ops_router, starting_router};
use request::body::Bodies;
use response::ResponseMemory;
pub use server::{Limits as ServerLimits, Server, bind};
pub use submission::{Receipt, ReceivedMime, Submission, SubmissionError, Submitter, field_of};
pub use webhooks::TargetCheck;

/// The state that all handlers share; cloned for each request.
#[derive(Debug, Clone)]
pub struct Api(Arc<Shared>);

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The parts of an [`Api`].
#[derive(Debug, Clone)]
pub struct Shared {
    db: Db,
    clock: SharedClock,
    acceptor: Arc<Acceptor>,
    feedback: Arc<Feedback>,
    receiver: Arc<Receiver>,
    /// Maximum size in bytes of an inbound report.
    max_inbound: u64,
    /// Maximum size in bytes of an uploaded file.
    max_upload: u64,
    keys: Arc<KeyCache>,
    /// Proxies whose `X-Forwarded-For` is believed.
    trusted_proxies: Vec<IpNet>,
    /// Rate limits and quotas of API keys.
    allowances: Arc<Allowances>,
    /// The cell of new API keys.
    cell: Option<Cell>,
    bodies: Arc<Bodies>,
    limits: Limits,
    responses: ResponseMemory,
    /// Concurrency limit of expensive queries.
    slow_queries: ConcurrencyLimit,
    /// Concurrency limit for compiling and rendering templates.
    renders: ConcurrencyLimit,
    /// Concurrency limit of event streams, long polls and exports.
    long_requests: ConcurrencyLimit,
    /// Concurrency limit of downloads of attachments, per tenant.
    downloads: ConcurrencyLimit,
    /// Downloads attachments; `None` if that is switched off.
    fetcher: Option<Arc<Fetcher>>,
    delivery: Arc<Delivery>,
    /// How long data is kept.
    periods: Periods,
    check_target: TargetCheck,
    domains: Arc<Domains>,
    event_notifier: Arc<EventNotifier>,
    /// Creates and verifies unsubscribe links, if configured.
    links: Option<Links>,
    /// Renders the bodies of messages of bulks.
    renderer: Arc<Renderer>,
    /// Whether the API of Resend is served.
    resend: bool,
    readiness: Arc<Readiness>,
    restore_gate: Arc<RestoreGate>,
    metrics_access: MetricsAccess,
    /// Whether that API shows `relayed` messages as `delivered`.
    relayed_as_delivered: bool,
}

/// Settings of the API.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Maximum size in bytes of a request body.
    pub max_body: u64,
    /// Maximum size in bytes of an inbound report.
    pub max_inbound: u64,
    /// Maximum size in bytes of an uploaded file, and of all files of a form together.
    pub max_upload: u64,
    /// Memory in bytes for all large request bodies together.
    pub body_memory: u64,
    /// Limits on counts and sizes within one message.
    pub limits: Limits,
    /// The delivery configuration of the workers.
    pub delivery: Delivery,
    /// How long data is kept.
    pub periods: Periods,
    /// Checks which URLs webhook endpoints may have.
    pub check_target: TargetCheck,
    /// Sender domains.
    pub domains: Domains,
    /// Creates and verifies unsubscribe links, if configured.
    pub links: Option<Links>,
    /// Renders the bodies of messages of bulks.
    pub renderer: Arc<Renderer>,
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Maximum requests per minute with invalid API keys from one address.
    pub auth_failures_per_minute: u32,
    /// The cell of new API keys.
    pub cell: Option<Cell>,
    /// Whether the API that is compatible with Resend's is served, at the root.
    pub resend: bool,
    /// What the readiness probe reports.
    pub readiness: Arc<Readiness>,
    /// Whether the restore guard lets this process send.
    pub restore_gate: Arc<RestoreGate>,
    /// Who may read the metrics.
    pub metrics_access: MetricsAccess,
    /// Whether that API shows `relayed` messages as `delivered`.
    pub relayed_as_delivered: bool,
    /// Downloads attachments that are given as URLs; `None` if that is switched off.
    pub fetcher: Option<Arc<Fetcher>>,
}

/// What processes received messages.
#[derive(Debug, Clone)]
pub struct Received {
    /// Applies bounces and complaints.
    pub feedback: Arc<Feedback>,
    /// Has the inbound routes.
    pub receiver: Arc<Receiver>,
}

impl Api {
    /// Creates the API. When `stop` is cancelled, requests that wait for events return at once.
    pub fn new(
        db: Db,
        clock: SharedClock,
        acceptor: Arc<Acceptor>,
        Received { feedback, receiver }: Received,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        let caches = acceptor.caches().clone();
        let keys = KeyCache::new(db.clone(), clock.clone(), caches, settings.auth_failures_per_minute);
        tokio::spawn(stop.clone().run_until_cancelled_owned(keys.clone().write_uses()));
        let allowances = Arc::new(Allowances::new(db.clone(), clock.clone()));
        tokio::spawn(allowances.clone().release_unused(stop.clone()));
        Self(Arc::new(Shared {
            event_notifier: Arc::new(EventNotifier::new(db.clone(), stop)),
            bodies: Arc::new(Bodies::new(keys.clone(), settings.max_body, settings.body_memory)),
            keys,
            trusted_proxies: settings.trusted_proxies,
            allowances,
            cell: settings.cell,
            limits: settings.limits,
            responses: ResponseMemory::new(settings.body_memory.max(settings.max_body)),
            slow_queries: ConcurrencyLimit::new(limits::concurrency_limit::SLOW_QUERIES),
            renders: ConcurrencyLimit::new(limits::concurrency_limit::RENDERS),
            long_requests: ConcurrencyLimit::new(limits::concurrency_limit::LONG_REQUESTS),
            downloads: ConcurrencyLimit::new(limits::concurrency_limit::DOWNLOADS),
            fetcher: settings.fetcher,
            delivery: Arc::new(settings.delivery),
            periods: settings.periods,
            check_target: settings.check_target,
            domains: Arc::new(settings.domains),
            links: settings.links,
            renderer: settings.renderer,
            resend: settings.resend,
            readiness: settings.readiness,
            restore_gate: settings.restore_gate,
            metrics_access: settings.metrics_access,
            relayed_as_delivered: settings.relayed_as_delivered,
            db,
            clock,
            acceptor,
            feedback,
            receiver,
            max_inbound: settings.max_inbound,
            max_upload: settings.max_upload,
        }))
    }

    /// Passes a change of this process on to its caches.
    fn forget(&self, outdated: Outdated) {
        self.acceptor.caches().forget(outdated);
    }

    /// Returns the rate limits and quotas of API keys.
    pub fn allowances(&self) -> Arc<Allowances> {
        self.allowances.clone()
    }
}

/// Returns the router of all documented routes.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(messages::create::create, messages::read::list::list))
        .routes(routes!(messages::batch::create))
        .routes(routes!(messages::bulk::create))
        .routes(routes!(messages::actions::create))
        .routes(routes!(messages::actions::read::list))
        .routes(routes!(messages::actions::read::get))
        .routes(routes!(messages::actions::control::cancel))
        .routes(routes!(messages::export::export))
        .routes(routes!(messages::read::rejected::list))
        .routes(routes!(messages::bulk::read::list))
        .routes(routes!(messages::bulk::read::get))
        .routes(routes!(messages::bulk::control::pause))
        .routes(routes!(messages::bulk::control::resume))
        .routes(routes!(messages::bulk::control::cancel))
        .routes(routes!(messages::read::get, messages::control::reschedule))
        .routes(routes!(messages::read::events))
        .routes(routes!(messages::read::attempts::list))
        .routes(routes!(messages::read::explain::get))
        .routes(routes!(messages::raw::raw))
        .routes(routes!(messages::raw::attachment))
        .routes(routes!(messages::control::cancel))
        .routes(routes!(messages::control::retry))
        .routes(routes!(messages::redact::redact))
        .routes(routes!(templates::read::list, templates::control::create))
        .routes(routes!(templates::validate::validate))
        .routes(routes!(templates::read::get, templates::control::change, templates::control::remove))
        .routes(routes!(templates::publish::publish))
        .routes(routes!(templates::preview::preview))
        .routes(routes!(templates::versions::list))
        .routes(routes!(templates::versions::get))
        .routes(routes!(blobs::put, blobs::head))
        .routes(routes!(lanes::list::list, lanes::control::put))
        .routes(routes!(lanes::list::get, lanes::control::change))
        .routes(routes!(lanes::control::pause))
        .routes(routes!(lanes::control::resume))
        .routes(routes!(lanes::control::reset))
        .routes(routes!(lanes::control::retry))
        .routes(routes!(lanes::trace::trace))
        .routes(routes!(streams::read::list, streams::control::create))
        .routes(routes!(streams::read::get, streams::control::change))
        .routes(routes!(streams::control::pause))
        .routes(routes!(streams::control::resume))
        .routes(routes!(events::list))
        .routes(routes!(webhooks::read::list, webhooks::control::create))
        .routes(routes!(webhooks::read::get, webhooks::control::change, webhooks::control::remove))
        .routes(routes!(webhooks::secret::rotate))
        .routes(routes!(webhooks::test::test))
        .routes(routes!(webhooks::deliveries::list))
        .routes(routes!(webhooks::replay::replay))
        .routes(routes!(domains::read::list, domains::control::create))
        .routes(routes!(domains::read::get, domains::control::remove))
        .routes(routes!(domains::verify::verify))
        .routes(routes!(domains::rotate::rotate))
        .routes(routes!(inbound::submit))
        .routes(routes!(inbound_routes::list, inbound_routes::create))
        .routes(routes!(inbound_routes::get, inbound_routes::change, inbound_routes::remove))
        .routes(routes!(received::list))
        .routes(routes!(received::get, received::remove))
        .routes(routes!(received::content::raw))
        .routes(routes!(received::content::attachment))
        .routes(routes!(suppressions::list::list, suppressions::control::add))
        .routes(routes!(suppressions::control::remove_many))
        .routes(routes!(suppressions::import::import))
        .routes(routes!(suppressions::export::export))
        .routes(routes!(suppressions::list::get, suppressions::control::remove))
        .routes(routes!(privacy::erase))
        .routes(routes!(privacy::list))
        .routes(routes!(privacy::get))
        .routes(routes!(ops::ledger::get))
        .routes(routes!(statistics::get))
        .routes(routes!(keys::read::list, keys::control::create))
        .routes(routes!(keys::read::get, keys::control::change, keys::control::revoke))
        .routes(routes!(service::workers::list))
        .routes(routes!(service::get))
        .routes(routes!(tenants::read::list, tenants::control::create))
        .routes(routes!(tenants::read::get, tenants::control::change, tenants::control::remove))
        .routes(routes!(tenants::control::suspend))
        .routes(routes!(tenants::control::resume))
        .routes(routes!(ops::test_clock::advance))
        .routes(routes!(audit::read::list))
        .routes(routes!(ops::health::healthz))
        .routes(routes!(ops::health::readyz))
}

/// Returns the router of the whole application, with the routes of the development inbox if `inbox` is set.
pub fn router(api: Api, inbox: Option<Arc<Inbox>>) -> Router {
    router_with(api, inbox, None)
}

/// Returns the router of the whole application, with the dashboard if there is one. It has the pages of the inbox, too.
pub fn router_with(api: Api, inbox: Option<Arc<Inbox>>, dashboard: Option<Router>) -> Router {
    audit::prepare();
    let layer = ApiLayer { responses: api.responses.clone(), resend: api.resend, is_read_only: api.db.is_read_only() };
    let mut router = Router::from(routes()).merge(unsubscribe::router()).merge(ops::metrics_route());
    if api.resend {
        router = router.merge(resend::router());
    }
    let has_dashboard = dashboard.is_some();
    let mut router = router.with_state(api).merge(dashboard.unwrap_or_default());
    if let Some(inbox) = inbox {
        router = crate::dev::complete(router.merge(openapi::router()), inbox, has_dashboard);
    } else {
        router = router.merge(openapi::router());
    }
    with_layer(router, layer)
}

/// Returns a router with only the unsubscribe pages and a liveness probe.
pub fn public(api: Api) -> Router {
    // Unlike `healthz`, does not reveal the version.
    let health = || async { axum::Json(serde_json::json!({"status": "ok"})) };
    let health = Router::new().route("/healthz", axum::routing::get(health));
    let layer = ApiLayer { responses: api.responses.clone(), resend: false, is_read_only: api.db.is_read_only() };
    with_layer(health.merge(unsubscribe::router().with_state(api)), layer)
}

/// Adds the fallbacks and the API layer to the router of the standalone inbox.
pub fn finish(router: Router) -> Router {
    with_layer(router, ApiLayer { responses: ResponseMemory::new(INBOX_MEMORY), resend: false, is_read_only: false })
}

/// Memory for large responses of the standalone inbox, in bytes.
const INBOX_MEMORY: u64 = 64 << 20;

fn with_layer(router: Router, layer: ApiLayer) -> Router {
    router.fallback(error::not_found).method_not_allowed_fallback(error::method_not_allowed).layer(layer)
}

/// `Retry-After` while the database is unavailable.
const RETRY_AFTER: Duration = Duration::from_secs(2);
