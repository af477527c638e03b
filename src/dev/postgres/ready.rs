//! Waits until the server accepts connections, or returns why it does not.

use std::fs;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::PostgresError;
use super::cluster::USER;
use super::error::first_error;
use super::home::Home;
use super::process::Watched;
use crate::db::pool::cluster::{Readiness, readiness};

/// Interval between two connection attempts.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How long a server may take until it responds.
const RESPONSE_LIMIT: Duration = Duration::from_secs(30);
/// How long a server may report that it is starting up: after a crash it replays its WAL first, which can take minutes.
const RECOVERY_LIMIT: Duration = Duration::from_mins(5);
/// Time limit of one connection attempt.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);

/// Returns the URL of a database on this machine, for the cluster's superuser.
pub(super) fn url(port: u16, password: &str, database: &str) -> String {
    format!("postgres://{USER}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// Waits until a statement succeeds.
pub(super) async fn wait(process: &mut Watched, url: &str, home: &Home) -> Result<(), PostgresError> {
    let start = Instant::now();
    let mut limit = RESPONSE_LIMIT;
    loop {
        if process.ended().is_some() {
            let log = fs::read_to_string(home.log()).unwrap_or_default();
            return Err(PostgresError::Start { reason: first_error(&log), log: home.log() });
        }
        match timeout(ATTEMPT_LIMIT, readiness(url)).await {
            Ok(Readiness::Ready) => return Ok(()),
            Ok(Readiness::StartingUp) => limit = RECOVERY_LIMIT,
            Ok(Readiness::Silent) | Err(_) => {}
        }
        if start.elapsed() > limit {
            let reason = format!("it accepted no connection within {} s", limit.as_secs());
            return Err(PostgresError::Start { reason, log: home.log() });
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}
