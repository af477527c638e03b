//! The API: every route in one list, one file a resource. Handlers say what is to be done; they know no SMTP and no
//! SQL. Errors are RFC 9457 problems, made in `error` alone.

mod auth;
mod body;
mod delivery;
mod domains;
mod error;
mod events;
mod examples;
mod health;
mod idempotency;
mod inbound;
mod keys;
mod lanes;
mod ledger;
mod messages;
mod openapi;
mod page;
mod params;
mod request_id;
mod response;
mod room;
mod security;
mod security_log;
mod server;
mod streams;
mod suppressions;
mod turns;
mod unread;
mod unsubscribe;
mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::accept::Acceptor;
use crate::accept::request::Limits;
use crate::clock::SharedClock;
use crate::db::Db;
use crate::dev::inbox::Inbox;
use crate::domain::unsubscribe::Links;
use crate::feedback::Feedback;

use auth::Keys;
use body::Bodies;
pub use delivery::{Delivery, RelayView, RouteInfo};
pub use domains::Domains;
pub use error::{ApiError, Problem, ProblemCode};
use events::EventNotifier;
pub use health::healthz;
pub use openapi::document;
use request_id::Surround;
use response::Responses;
pub use server::{Limits as ServerLimits, Server, bind};
use turns::Turns;
pub use webhooks::TargetCheck;

/// What the handlers share. A copy of it is made for each request.
#[derive(Debug, Clone)]
pub struct Api(Arc<Shared>);

impl Deref for Api {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The parts of an [`Api`].
#[derive(Debug)]
pub struct Shared {
    db: Db,
    clock: SharedClock,
    acceptor: Arc<Acceptor>,
    feedback: Arc<Feedback>,
    /// Octets of one mail that came back.
    max_inbound: u64,
    keys: Arc<Keys>,
    bodies: Arc<Bodies>,
    limits: Limits,
    responses: Responses,
    /// At queries that may look through much.
    turns: Arc<Turns>,
    /// At following the events.
    followers: Arc<Turns>,
    delivery: Arc<Delivery>,
    check_target: TargetCheck,
    domains: Arc<Domains>,
    event_notifier: Arc<EventNotifier>,
    /// Makes and reads links to unsubscribe by, where that is configured.
    links: Option<Links>,
}

/// How much the API takes in.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Octets of one request body.
    pub max_body: u64,
    /// Octets of one mail that came back.
    pub max_inbound: u64,
    /// Octets of all large request bodies that are read at one time.
    pub body_memory: u64,
    /// Counts and sizes within one message.
    pub limits: Limits,
    /// How the workers are configured.
    pub delivery: Delivery,
    /// Where webhooks may be.
    pub check_target: TargetCheck,
    /// Senders' domains.
    pub domains: Domains,
    /// Makes and reads links to unsubscribe by, where that is configured.
    pub links: Option<Links>,
}

impl Api {
    /// Puts the parts together. With `stop`, whoever waits for events is answered at once.
    pub fn new(
        db: Db,
        clock: SharedClock,
        acceptor: Arc<Acceptor>,
        feedback: Arc<Feedback>,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        let keys = Arc::new(Keys::new(db.clone(), clock.clone()));
        Self(Arc::new(Shared {
            event_notifier: Arc::new(EventNotifier::new(db.clone(), stop)),
            bodies: Arc::new(Bodies::new(keys.clone(), settings.max_body, settings.body_memory)),
            keys,
            limits: settings.limits,
            responses: Responses::new(settings.body_memory.max(settings.max_body)),
            turns: Turns::new(turns::QUERIES),
            followers: Turns::new(turns::FOLLOWERS),
            delivery: Arc::new(settings.delivery),
            check_target: settings.check_target,
            domains: Arc::new(settings.domains),
            links: settings.links,
            db,
            clock,
            acceptor,
            feedback,
            max_inbound: settings.max_inbound,
        }))
    }
}

/// Every documented route.
fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(messages::create::create, messages::list::list))
        .routes(routes!(messages::read::get, messages::control::reschedule))
        .routes(routes!(messages::read::events))
        .routes(routes!(messages::explain::get))
        .routes(routes!(messages::raw::raw))
        .routes(routes!(messages::raw::attachment))
        .routes(routes!(messages::control::cancel))
        .routes(routes!(messages::control::retry))
        .routes(routes!(lanes::list::list, lanes::control::put))
        .routes(routes!(lanes::list::get, lanes::control::change))
        .routes(routes!(lanes::control::pause))
        .routes(routes!(lanes::control::resume))
        .routes(routes!(lanes::control::reset))
        .routes(routes!(lanes::control::retry))
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
        .routes(routes!(inbound::hand_in))
        .routes(routes!(suppressions::list::list, suppressions::control::add))
        .routes(routes!(suppressions::control::remove_many))
        .routes(routes!(suppressions::import::import))
        .routes(routes!(suppressions::export::export))
        .routes(routes!(suppressions::list::get, suppressions::control::remove))
        .routes(routes!(ledger::get))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::revoke))
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
}

/// The whole application. With `inbox`, the routes of the development inbox are there too.
pub fn router(api: Api, inbox: Option<Arc<Inbox>>) -> Router {
    let responses = api.responses.clone();
    let mut router = Router::from(routes()).merge(unsubscribe::router()).with_state(api);
    if let Some(inbox) = inbox {
        router = crate::dev::complete(router.merge(openapi::router()), inbox);
    } else {
        router = router.merge(openapi::router());
    }
    with_responses(router, responses)
}

/// The pages for recipients alone, and the probe of a load balancer.
pub fn public(api: Api) -> Router {
    // Which version runs is not everybody's business.
    let health = || async { axum::Json(serde_json::json!({"status": "ok"})) };
    let health = Router::new().route("/healthz", axum::routing::get(health));
    let responses = api.responses.clone();
    with_responses(health.merge(unsubscribe::router().with_state(api)), responses)
}

/// What every answer gets, also that of the inbox alone.
pub fn finish(router: Router) -> Router {
    with_responses(router, Responses::new(INBOX_MEMORY))
}

/// Memory for large responses of the inbox where it runs alone.
const INBOX_MEMORY: u64 = 64 << 20;

fn with_responses(router: Router, responses: Responses) -> Router {
    router.fallback(error::not_found).method_not_allowed_fallback(error::method_not_allowed).layer(Surround(responses))
}

/// How long a client is asked to wait when the database is away.
const RETRY_AFTER: Duration = Duration::from_secs(2);
