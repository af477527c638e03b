//! Errors of the bench, each one line, and what to do about them.

use std::error::Error;

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The run would be wrong or useless.
    #[error("{why}")]
    Refused {
        /// What is wrong.
        why: String,
        /// What to do instead.
        hint: Option<&'static str>,
    },
    /// A part of the setup failed.
    #[error("cannot {doing}: {source}")]
    Failed {
        /// What was being done, as a phrase that follows "cannot".
        doing: String,
        /// The cause.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The run was interrupted.
    #[error("stopped before the end: there are no figures")]
    Stopped,
}

impl BenchError {
    pub(super) fn refused<T>(why: impl Into<String>, hint: impl Into<Option<&'static str>>) -> Result<T, Self> {
        Err(Self::Refused { why: why.into(), hint: hint.into() })
    }

    /// Returns what to do instead.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Refused { hint, .. } => *hint,
            Self::Failed { .. } | Self::Stopped => None,
        }
    }
}

/// Adds what was being done to an error.
pub(super) trait Doing<T> {
    /// Adds `doing`, a phrase that follows "cannot".
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError>;
}

impl<T, E: Into<Box<dyn Error + Send + Sync>>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl Into<String>) -> Result<T, BenchError> {
        self.map_err(|source| BenchError::Failed { doing: doing.into(), source: source.into() })
    }
}
