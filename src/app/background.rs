//! The tasks in the background of every process with the API.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::hostname;
use super::settings::message_limits;
use super::smtp_servers::bounce_intake;
use crate::accept::Acceptor;
use crate::accept::background::actions::runner::ActionRunner;
use crate::accept::background::erasures::ErasureRunner;
use crate::accept::background::relays::RelayRunner;
use crate::accept::background::sql_inbox::SqlInbox;
use crate::accept::background::work_poll::WorkPoll;
use crate::accept::bulk::expander::Expander;
use crate::clock::SharedClock;
use crate::config::Config;
use crate::db::RestoreGate;
use crate::rendering::Renderer;

/// What the tasks share.
pub(super) struct Background<'a> {
    pub config: &'a Config,
    pub acceptor: &'a Arc<Acceptor>,
    pub renderer: &'a Arc<Renderer>,
    pub clock: &'a SharedClock,
    /// While it is closed, nothing is sent or changed.
    pub gate: &'a Arc<RestoreGate>,
    /// Notifies the task that passes received messages on.
    pub relay_wake: Arc<Notify>,
}

impl Background<'_> {
    /// Starts the tasks; they end when `stop` is cancelled.
    pub(super) fn start(self, tasks: &TaskTracker, stop: &CancellationToken) -> anyhow::Result<()> {
        let Self { config, acceptor, renderer, clock, gate, relay_wake } = self;
        let expander = Expander::new(acceptor.clone(), renderer.clone(), clock.clone(), gate.clone());
        tasks.spawn(expander.run(stop.clone()));
        let send_settings = message_limits::send_settings(config);
        let sql_inbox = SqlInbox::new(acceptor.clone(), clock.clone(), gate.clone(), send_settings);
        tasks.spawn(sql_inbox.run(stop.clone()));
        let sender = (hostname(config), bounce_intake::srs(config)?);
        let relays = RelayRunner::new(acceptor.clone(), clock.clone(), gate.clone(), relay_wake.clone(), sender);
        tasks.spawn(relays.run(stop.clone()));
        let runner = ActionRunner::new(acceptor.clone(), clock.clone(), gate.clone());
        tasks.spawn(runner.run(stop.clone()));
        let eraser = ErasureRunner::new(acceptor.clone(), clock.clone(), gate.clone());
        tasks.spawn(eraser.run(stop.clone()));
        tasks.spawn(WorkPoll::new(acceptor.clone(), clock.clone(), relay_wake).run(stop.clone()));
        Ok(())
    }
}
