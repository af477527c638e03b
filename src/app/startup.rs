//! The start of a process up to the point at which its roles can start: connects to the database, binds the ports, and
//! waits until the database has the schema of this version, so that processes and the migration can start in any order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::descriptors::{self, HttpLimits};
use super::listeners::{Listeners, duplicate};
use super::{Roles, bounce_intake, open, server_watch};
use crate::config::Config;
use crate::db::schema::{self, SchemaError};
use crate::db::{self, Db};
use crate::http::{self, Readiness, Server};

/// Interval of the checks of the schema.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the requests that are refused meanwhile may take.
const REFUSAL_GRACE: Duration = Duration::from_secs(5);

/// What the roles start with.
pub(super) struct Startup {
    pub db: Db,
    pub listeners: Listeners,
    pub limits: HttpLimits,
    pub readiness: Arc<Readiness>,
    /// The server for metrics and probes. It runs already.
    pub ops: Option<Server>,
}

/// Returns once the database can be used.
pub(super) async fn prepare(config: &Config, roles: Roles, has_inbox: bool) -> anyhow::Result<Startup> {
    // Report configuration errors before anything is changed.
    bounce_intake::paths(config)?;
    let db = open(config, true)?;
    server_watch::wait_until_ready(&db).await?;
    // Bind the ports before the worker registers: a port in use must not leave a registered worker behind.
    let mut listeners = Listeners::bind(config, roles).await?;
    let limits = descriptors::http_limits(config, roles, has_inbox)?;
    let readiness = Arc::new(Readiness::default());
    let ops = listeners.ops.take().map(|listener| {
        Server::start(listener, http::ops_router(readiness.clone(), db.clone()), descriptors::OPS_LIMITS)
    });
    let startup = Startup { ops: ops.transpose()?, db, listeners, limits, readiness };
    startup.wait_for_schema(config.resend.enabled).await?;
    for problem in db::pool::durability::check(&startup.db).await? {
        tracing::warn!(
            event = "durability_problem",
            problem,
            "a crash can lose accepted messages; change the named setting"
        );
    }
    Ok(startup)
}

impl Startup {
    /// Returns once the schema matches. Until then, the API's listeners answer 503. Fails if waiting cannot help.
    async fn wait_for_schema(&self, resend: bool) -> anyhow::Result<()> {
        let Some(problem) = mismatch(&self.db).await? else { return Ok(()) };
        self.readiness.wait_for_schema(&problem);
        let start = |listener: Option<&TcpListener>, limits| {
            let start = |listener| {
                let router = http::starting_router(self.readiness.clone(), resend);
                anyhow::Ok(Server::start(duplicate(listener)?, router, limits)?)
            };
            listener.map(start).transpose()
        };
        let server = start(self.listeners.api.as_ref(), self.limits.api)?;
        let public = start(self.listeners.public.as_ref(), self.limits.public)?;
        tracing::warn!(
            event = "waiting_for_schema",
            %problem,
            hint = problem.hint(),
            address = server.as_ref().map(|server| tracing::field::display(server.address)),
            public = public.as_ref().map(|server| tracing::field::display(server.address)),
            metrics = self.ops.as_ref().map(|server| tracing::field::display(server.address)),
            "the database schema does not match this version; waiting until it does, and refusing requests"
        );
        self.poll_schema().await?;
        let stop = async |server: Option<Server>| {
            if let Some(server) = server {
                server.stop(REFUSAL_GRACE).await;
            }
        };
        tokio::join!(stop(server), stop(public));
        tracing::info!(event = "schema_matches", "the database schema matches this version; starting");
        Ok(())
    }

    async fn poll_schema(&self) -> anyhow::Result<()> {
        loop {
            tokio::time::sleep(POLL_INTERVAL).await;
            match mismatch(&self.db).await {
                Ok(None) => return Ok(()),
                Ok(Some(problem)) => self.readiness.wait_for_schema(&problem),
                Err(SchemaError::Db(error)) if error.is_temporary() => {
                    tracing::debug!(%error, "failed to check the schema; trying again");
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns the mismatch, if it is one that somebody else can end: by migrating the database, or by restoring an older
/// one.
async fn mismatch(db: &Db) -> Result<Option<SchemaError>, SchemaError> {
    match schema::check(db).await {
        Ok(()) => Ok(None),
        Err(problem @ (SchemaError::Behind { .. } | SchemaError::Ahead { .. })) => Ok(Some(problem)),
        Err(error) => Err(error),
    }
}
