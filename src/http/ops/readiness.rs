//! Whether this process is ready for requests: not before the database has the schema of this version, not while the
//! database is unavailable, not while the restore guard lets it send nothing if it only sends, and no longer once the process is to stop.

use std::sync::Arc;

use parking_lot::RwLock;

use crate::db::schema::{self, SchemaError};
use crate::db::{Db, RestoreGate};
use crate::http::ApiError;

pub(super) const STARTING: &str = "Postrider is starting.";
const DRAINING: &str = "Postrider is shutting down.";

/// The state of this process that the readiness probe reports.
#[derive(Debug)]
pub struct Readiness {
    phase: RwLock<Phase>,
    /// The gate of a process that only sends: it is not ready while the restore guard holds.
    gate: Option<Arc<RestoreGate>>,
}

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
        Self { phase: RwLock::new(Phase::Starting(STARTING.to_owned())), gate: None }
    }
}

impl Readiness {
    /// Lets the process be ready only while the restore guard does not hold.
    #[must_use]
    pub fn with_gate(self, gate: Arc<RestoreGate>) -> Self {
        Self { gate: Some(gate), ..self }
    }

    /// Reports that the process waits until the database is available.
    pub fn wait_for_database(&self) {
        *self.phase.write() = Phase::Starting("The database cannot be reached; waiting until it can.".to_owned());
    }

    /// Reports that the process waits for the schema of its version.
    pub fn wait_for_schema(&self, problem: &SchemaError) {
        *self.phase.write() = Phase::Starting(describe(problem));
    }

    /// Reports that the process serves requests.
    pub fn set_running(&self) {
        *self.phase.write() = Phase::Running;
    }

    /// Reports that the process is about to stop.
    pub fn drain(&self) {
        *self.phase.write() = Phase::Draining;
    }

    /// Fails with the reason if the process is starting or about to stop.
    pub(super) fn check_phase(&self) -> Result<(), ApiError> {
        match &*self.phase.read() {
            Phase::Running => Ok(()),
            Phase::Starting(reason) => Err(ApiError::NotReady(reason.clone())),
            Phase::Draining => Err(ApiError::NotReady(DRAINING.to_owned())),
        }
    }

    /// Fails with the reason if the process is not ready.
    ///
    /// A schema that is newer than this version is none: a new version migrates the database while the previous one
    /// still runs.
    pub(in crate::http) async fn check(&self, db: &Db) -> Result<(), ApiError> {
        self.check_phase()?;
        db.ping().await?;
        match schema::check(db).await {
            Ok(()) | Err(SchemaError::Ahead { .. }) => {}
            Err(SchemaError::Db(error)) => return Err(error.into()),
            Err(problem) => return Err(ApiError::NotReady(describe(&problem))),
        }
        match self.gate.as_ref().and_then(|gate| gate.problem()) {
            Some(problem) => Err(ApiError::NotReady(problem)),
            None => Ok(()),
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
