//! Errors of the bench, each with a one-line text and optionally a fix.

use std::error::Error;

/// The reason why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The bench refuses to run, because the results would be wrong or useless.
    #[error("{why}")]
    Refused {
        /// The reason.
        why: String,
        /// The fix.
        hint: Option<&'static str>,
    },
    /// A part of the setup failed.
    #[error("cannot {doing}: {source}")]
    Failed {
        /// The failed step, as a phrase that follows "cannot".
        doing: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The run was interrupted.
    #[error("stopped before the end: there are no results")]
    Stopped,
}

impl BenchError {
    pub(super) fn refused<T>(why: impl Into<String>, hint: impl Into<Option<&'static str>>) -> Result<T, Self> {
        Err(Self::Refused { why: why.into(), hint: hint.into() })
    }

    /// Returns the fix, if there is one.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { hint, .. } => *hint,
            Self::Failed { .. } | Self::Stopped => None,
        }
    }
}

/// Adds the failed step to an error.
pub(super) trait Doing<T> {
    /// Adds `doing`, a phrase that follows "cannot", such as "start the service".
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Failed { doing: doing.into(), source: source.into() })
    }
}
