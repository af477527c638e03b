//! Waits until the database has the schema of this version, so that processes and the migration can start in any order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::listeners::duplicate;
use crate::db::schema::{self, SchemaError};
use crate::db::{Db, DbError};
use crate::http::{self, Readiness, Server, ServerLimits};

/// Poll interval.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long the requests that are refused meanwhile may take.
const REFUSAL_GRACE: Duration = Duration::from_secs(5);

/// The API of a process that waits.
pub(super) struct WaitingApi<'a> {
    pub listener: &'a TcpListener,
    pub limits: ServerLimits,
    pub resend: bool,
}

/// Returns once the schema matches. Until then, the API answers 503. Fails if waiting cannot help.
pub(super) async fn wait(
    db: &Db,
    readiness: &Arc<Readiness>,
    api: Option<WaitingApi<'_>>,
) -> anyhow::Result<()> {
    let Some(problem) = mismatch(db).await? else { return Ok(()) };
    readiness.wait_for_schema(&problem);
    let server = api.map(|api| {
        let router = http::starting_router(readiness.clone(), api.resend);
        anyhow::Ok(Server::start(duplicate(api.listener)?, router, api.limits)?)
    });
    let server = server.transpose()?;
    tracing::warn!(
        event = "waiting_for_schema",
        problem = %problem,
        hint = problem.hint(),
        address = server.as_ref().map(|server| tracing::field::display(server.address)),
        "the database schema does not match this version; waiting, and refusing requests with 503"
    );
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        match mismatch(db).await {
            Ok(None) => break,
            Ok(Some(problem)) => readiness.wait_for_schema(&problem),
            Err(SchemaError::Db(error)) if error.is_temporary() => log_outage(&error),
            Err(error) => return Err(error.into()),
        }
    }
    if let Some(server) = server {
        server.stop(REFUSAL_GRACE).await;
    }
    tracing::info!(event = "schema_matches", "the database schema matches this version; starting");
    Ok(())
}

fn log_outage(error: &DbError) {
    tracing::debug!(%error, "failed to check the schema; trying again");
}

/// Returns the mismatch, if it is one that another process can end: by migrating the database, or by restoring an older
/// one.
async fn mismatch(db: &Db) -> Result<Option<SchemaError>, SchemaError> {
    match schema::check(db).await {
        Ok(()) => Ok(None),
        Err(problem @ (SchemaError::Behind { .. } | SchemaError::Ahead { .. })) => Ok(Some(problem)),
        Err(error) => Err(error),
    }
}
