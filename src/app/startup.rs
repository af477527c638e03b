//! The start of a process up to the point at which its roles can start: binds the ports, and waits until the database can
//! be reached and has the schema of this version, so that the server, processes and the migration can start in any order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::descriptors::{self, HttpLimits};
use super::listeners::{Listeners, duplicate};
use super::smtp_servers::{bounce_intake, submission};
use super::{Roles, open, open_service};
use crate::config::Config;
use crate::db::pool::session::{self, SessionError};
use crate::db::schema::{self, SchemaError};
use crate::db::{self, Db, RestoreGate};
use crate::http::{self, Readiness, Server};

/// Interval of the checks of the database and its schema.
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
pub(super) async fn prepare(
    config: &Config,
    roles: Roles,
    has_inbox: bool,
    gate: &Arc<RestoreGate>,
) -> anyhow::Result<Startup> {
    // Report configuration errors before anything is changed.
    bounce_intake::paths(config)?;
    submission::check(config)?;
    warn_about_duplicates(config);
    let is_read_only = roles == Roles::ReadOnlyApi;
    // A process that sends nothing has no gate that new connections could close.
    let db = if is_read_only { open_service(config)?.read_only() } else { open(config, Some(gate))? };
    // Bind the ports before the worker registers: a port in use must not leave a registered worker behind.
    let mut listeners = Listeners::bind(config, roles).await?;
    let limits = descriptors::http_limits(config, roles, has_inbox)?;
    let readiness = Readiness::default();
    // The API accepts messages during a hold, so it is ready.
    let readiness = Arc::new(if roles == Roles::Worker { readiness.with_gate(gate.clone()) } else { readiness });
    let ops = listeners.ops.take().map(|listener| {
        Server::start(listener, http::ops_router(readiness.clone(), db.clone()), descriptors::OPS_LIMITS)
    });
    let startup = Startup { ops: ops.transpose()?, db, listeners, limits, readiness };
    startup.wait_for_database(config.resend.enabled).await?;
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
    /// Returns once the database accepts connections. Until then, the API's listeners answer 503, so that an outage ends
    /// no process that starts meanwhile. Fails if waiting cannot help.
    async fn wait_for_database(&self, resend: bool) -> anyhow::Result<()> {
        let check = || session::check(&self.db);
        let error = match check().await {
            Err(error) if error.is_outage() => error,
            checked => return Ok(checked?),
        };
        self.readiness.wait_for_database();
        let refusal = self.refuse(resend)?;
        tracing::warn!(
            event = "waiting_for_database",
            %error,
            address = refusal.server.as_ref().map(|server| tracing::field::display(server.address)),
            public = refusal.public.as_ref().map(|server| tracing::field::display(server.address)),
            metrics = self.ops.as_ref().map(|server| tracing::field::display(server.address)),
            "the database is not available; waiting until it is, and refusing requests"
        );
        poll_database(check).await?;
        refusal.end().await;
        Ok(())
    }

    /// Returns once the schema matches. Until then, the API's listeners answer 503. Fails if waiting cannot help.
    async fn wait_for_schema(&self, resend: bool) -> anyhow::Result<()> {
        let Some(problem) = mismatch(&self.db).await? else { return Ok(()) };
        self.readiness.wait_for_schema(&problem);
        let refusal = self.refuse(resend)?;
        tracing::warn!(
            event = "waiting_for_schema",
            %problem,
            hint = problem.hint(),
            address = refusal.server.as_ref().map(|server| tracing::field::display(server.address)),
            public = refusal.public.as_ref().map(|server| tracing::field::display(server.address)),
            metrics = self.ops.as_ref().map(|server| tracing::field::display(server.address)),
            "the database schema does not match this version; waiting until it does, and refusing requests"
        );
        self.poll_schema().await?;
        refusal.end().await;
        tracing::info!(event = "schema_matches", "the database schema matches this version; starting");
        Ok(())
    }

    /// Starts to answer all requests with 503.
    fn refuse(&self, resend: bool) -> anyhow::Result<Refusal> {
        let start = |listener: Option<&TcpListener>, limits| {
            let start = |listener| {
                let router = http::starting_router(self.readiness.clone(), resend);
                anyhow::Ok(Server::start(duplicate(listener)?, router, limits)?)
            };
            listener.map(start).transpose()
        };
        let server = start(self.listeners.api.as_ref(), self.limits.api)?;
        let public = start(self.listeners.public.as_ref(), self.limits.public)?;
        Ok(Refusal { server, public })
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

/// The servers that refuse requests until the process has started.
struct Refusal {
    server: Option<Server>,
    public: Option<Server>,
}

impl Refusal {
    async fn end(self) {
        let stop = async |server: Option<Server>| {
            if let Some(server) = server {
                server.stop(REFUSAL_GRACE).await;
            }
        };
        tokio::join!(stop(self.server), stop(self.public));
    }
}

/// Waits, however long that takes, until the database is available to this check. Fails if waiting cannot help.
pub async fn poll_database<F>(check: impl Fn() -> F) -> Result<(), SessionError>
where
    F: Future<Output = Result<(), SessionError>>,
{
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        match check().await {
            Err(error) if error.is_outage() => {
                tracing::debug!(%error, "failed to connect to the database; trying again");
            }
            Ok(()) => {
                tracing::info!(event = "database_reached", "the database is available; starting");
                return Ok(());
            }
            Err(error) => return Err(error),
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

/// Warns about settings that can send messages twice when the service stops.
fn warn_about_duplicates(config: &Config) {
    let (grace, final_dot) = (config.delivery.shutdown_grace, config.timeouts.final_dot);
    if grace < final_dot {
        tracing::warn!(
            event = "shutdown_grace_short",
            shutdown_grace_seconds = grace.as_secs(),
            final_dot_seconds = final_dot.as_secs(),
            "a stop may send messages twice: set delivery.shutdown_grace to at least timeouts.final_dot"
        );
    }
}
