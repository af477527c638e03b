//! A process that serves only reads, from a database that may be a hot standby: without a worker, without background tasks that
//! write, without SMTP servers and without the dashboard, whose sessions are stored. It checks the schema, and writes nothing.

use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::database::server_watch::ServerWatch;
use super::settings::{api_settings, routes};
use super::smtp_servers::bounce_intake;
use super::smtp_servers::submission::SubmissionServers;
use super::startup::{self, Startup};
use super::{App, Roles, gauges};
use crate::accept::{self, Acceptor, WakeNotifier};
use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::RestoreGate;
use crate::db::changes::{self, Caches};
use crate::group_commit::GroupCommit;
use crate::http::{self, Api, Server};
use crate::rendering::Renderer;

/// Starts the role.
pub(super) async fn start(config: &Config, clock: SharedClock) -> anyhow::Result<App> {
    // Nothing is sent, so there is nothing to hold.
    let gate = Arc::new(RestoreGate::always_open());
    let prepared = startup::prepare(config, Roles::ReadOnlyApi, false, &gate).await?;
    let Startup { db, listeners, limits, readiness, ops } = prepared;
    let watch = ServerWatch::start(config, clock.clone(), db.clone(), None).await?;
    let (wake, accepting, stop) = (Arc::new(Notify::new()), TaskTracker::new(), CancellationToken::new());
    tokio::spawn(stop.clone().run_until_cancelled_owned(watch.run()));
    // The API needs an acceptor to read, and refuses what would be accepted.
    let notifier = WakeNotifier::start(db.clone(), wake.clone(), &accepting);
    let group_commit = GroupCommit::start(&db, &clock, Vec::new(), None);
    let caches = Arc::new(Caches::default());
    tokio::spawn(stop.clone().run_until_cancelled_owned(changes::poll::run(db.clone(), caches.clone())));
    let dependencies =
        accept::Dependencies { routes: routes::table(config), group_commit, wake: notifier, caches: caches.clone() };
    let acceptor = Arc::new(Acceptor::new(db.clone(), clock.clone(), dependencies, &accepting));
    let feedback = bounce_intake::feedback(config, db.clone(), clock.clone())?;
    let receiver = bounce_intake::receiver(config, db.clone(), clock.clone(), caches.clone())?;
    let settings = api_settings::new(config, &db, &caches, Arc::new(Renderer::default()), readiness.clone(), gate)?;
    let received = http::Received { feedback, receiver };
    let api = Api::new(db.clone(), clock.clone(), acceptor, received, settings, stop.clone());
    let public = listeners.public.map(|listener| Server::start(listener, http::public(api.clone()), limits.public));
    let listener = listeners.api.context("the API has no listener")?;
    let server = Server::start(listener, http::router(api, None), limits.api)?;
    accepting.close();
    let pools = gauges::Pools { api: db.clone(), worker: None, dashboard: None };
    let gauges = gauges::start(pools, &clock, config.delivery.lease);
    readiness.set_running();
    Ok(App {
        db,
        wake,
        caches,
        server: Some(server),
        public: public.transpose()?,
        ops,
        readiness,
        drain_delay: config.http.drain_delay,
        inbound: None,
        submission: SubmissionServers::default(),
        accepting,
        allowances: None,
        dashboard: None,
        worker: None,
        stop,
        _gauges: gauges,
        _self_checks: Vec::new(),
    })
}
