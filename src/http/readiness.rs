//! Whether this process is ready for requests: not before the database has the schema of this version, not while the
//! database is unavailable, and no longer once the process is to stop.

use parking_lot::RwLock;

use super::ApiError;
use crate::db::Db;
use crate::db::schema::{self, SchemaError};

pub(super) const STARTING: &str = "Postrider is starting.";
const DRAINING: &str = "Postrider is shutting down.";

/// The state of this process that the readiness probe reports.
#[derive(Debug)]
pub struct Readiness(RwLock<Phase>);

#[derive(Debug)]
enum Phase {
    /// Nothing is served yet, for the reason in this sentence.
    Starting(String),
    /// Requests are served.
    Running,
    /// Requests are served, but the process is about to stop.
    Draining,
}

impl Default for Readiness {
    fn default() -> Self {
        Self(RwLock::new(Phase::Starting(STARTING.to_owned())))
    }
}

impl Readiness {
    /// Reports that the process waits for the schema of its version.
    pub fn wait_for_schema(&self, problem: &SchemaError) {
        *self.0.write() = Phase::Starting(describe(problem));
    }

    /// Reports that the process serves requests.
    pub fn set_running(&self) {
        *self.0.write() = Phase::Running;
    }

    /// Reports that the process is about to stop.
    pub fn drain(&self) {
        *self.0.write() = Phase::Draining;
    }

    /// Fails with the reason if the process is starting or about to stop.
    pub(super) fn check_phase(&self) -> Result<(), ApiError> {
        match &*self.0.read() {
            Phase::Running => Ok(()),
            Phase::Starting(reason) => Err(ApiError::NotReady(reason.clone())),
            Phase::Draining => Err(ApiError::NotReady(DRAINING.to_owned())),
        }
    }

    /// Fails with the reason if the process is not ready.
    ///
    /// A schema that is newer than this version is none: a new version migrates the database while the previous one
    /// still runs.
    pub(super) async fn check(&self, db: &Db) -> Result<(), ApiError> {
        self.check_phase()?;
        db.ping().await?;
        match schema::check(db).await {
            Ok(()) | Err(SchemaError::Ahead { .. }) => Ok(()),
            Err(SchemaError::Db(error)) => Err(error.into()),
            Err(problem) => Err(ApiError::NotReady(describe(&problem))),
        }
    }
}

fn describe(problem: &SchemaError) -> String {
    match problem {
        SchemaError::Behind { missing } => format!(
            "The database schema is older than this version ({missing} missing migrations); run `postrider migrate`."
        ),
        SchemaError::Ahead { version } => format!(
            "The database schema is newer than this version (unknown migration {version}); start the newer version."
        ),
        other => format!("The database schema does not match this version: {other}."),
    }
}
