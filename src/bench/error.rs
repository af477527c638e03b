//! Why there are no figures: one line that says what to do.

use std::error::Error;

/// Why a measurement was not made.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// It would be wrong or useless to go on; says what to do instead.
    #[error("{0}")]
    Refused(String),
    /// A part of the stage failed.
    #[error("cannot {doing}: {source}")]
    Failed {
        /// What was being done, as after "cannot".
        doing: String,
        /// Why not.
        source: Box<dyn Error + Send + Sync>,
    },
    /// Somebody asked for the end.
    #[error("stopped before the end: there are no figures")]
    Stopped,
}

impl BenchError {
    pub(super) fn refused<T>(why: impl Into<String>) -> Result<T, Self> {
        Err(Self::Refused(why.into()))
    }
}

/// Says what failed.
pub(super) trait Doing<T> {
    /// `doing` stands after "cannot".
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Failed { doing: doing.into(), source: source.into() })
    }
}
