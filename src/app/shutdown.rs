//! Stops the roles of a process in an order that loses no messages: it first refuses new requests, then commits
//! accepted messages, then finishes messages in flight.

use std::time::Duration;

use super::App;
use crate::http::Server;

/// How long requests in progress may take when the service stops.
pub(super) const REQUEST_GRACE: Duration = Duration::from_secs(30);

impl App {
    /// Stops the service. Every message accepted with 202 is committed, and messages in flight are finished.
    pub async fn stop(self) {
        self.drain().await;
        self.stop.cancel();
        let stop_inbound = async {
            if let Some(inbound) = self.inbound {
                inbound.stop().await;
            }
        };
        let serve = async |server: Option<Server>| {
            if let Some(server) = server {
                server.stop(REQUEST_GRACE).await;
            }
        };
        tokio::join!(stop_inbound, self.submission.stop(), serve(self.server), serve(self.public));
        // The dashboard has the API, and with it the acceptor, whose tasks end once nothing has it.
        let dashboard_db = self.dashboard.map(|dashboard| dashboard.db().clone());
        // A client that does not read keeps its connection's task alive; it must not delay the stop.
        if tokio::time::timeout(REQUEST_GRACE, self.accepting.wait()).await.is_err() {
            tracing::warn!(
                event = "connections_not_ended",
                "some connections did not end in time; stopping without them"
            );
        }
        // Before the worker ends, which may take long.
        if let Some(allowances) = self.allowances {
            allowances.release_all().await;
        }
        if let Some(running) = self.worker
            && running.await.is_err()
        {
            tracing::error!(
                event = "worker_panicked",
                "worker panicked; other workers rescue its leases when they expire"
            );
        }
        if let Some(db) = dashboard_db {
            db.close().await;
        }
        serve(self.ops).await;
        self.db.close().await;
    }

    /// Lets the readiness probe fail. Everything else works for the configured time, so that load balancers find another
    /// process before this one refuses connections.
    async fn drain(&self) {
        self.readiness.drain();
        if self.server.is_some() && !self.drain_delay.is_zero() {
            let seconds = self.drain_delay.as_secs_f64();
            tracing::info!(event = "draining", seconds, "readiness probe fails; still serving requests");
            tokio::time::sleep(self.drain_delay).await;
        }
    }
}
