//! Problems of a configuration, one per line.

use std::fmt;
use std::path::PathBuf;

/// A problem to fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}{origin}")]
pub struct Problem {
    /// The key, such as `accept.max_body_mib`, or the name of an unknown variable, or the file that cannot be read.
    pub key: String,
    /// What is wrong. Never contains a secret.
    pub message: String,
    /// The source of the value.
    pub origin: Origin,
}

/// The source of a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The problem's key is the name of the source.
    Key,
    /// The configuration file.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key => Ok(()),
            Self::File(path) => write!(f, " (in {})", path.display()),
            Self::Variable(name) => write!(f, " (from {name})"),
        }
    }
}

/// All problems of a configuration, displayed one per line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Problem>);

impl ConfigErrors {
    /// Returns the problems, those of the file first.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems.
#[derive(Debug, Default)]
pub(in crate::config) struct Problems(Vec<Problem>);

impl Problems {
    pub(in crate::config) fn push(&mut self, key: impl Into<String>, message: impl Into<String>, origin: Origin) {
        // Messages of parsers, and values in them, may have several lines.
        let message = message.into().lines().collect::<Vec<_>>().join(" ");
        self.0.push(Problem { key: key.into(), message, origin });
    }

    /// Returns whether there is a problem with this key.
    pub(in crate::config) fn has_problem(&self, key: &str) -> bool {
        self.0.iter().any(|problem| problem.key == key)
    }

    /// Returns `value` if there are no problems, and otherwise the problems.
    pub(in crate::config) fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.0.is_empty() { Ok(value) } else { Err(ConfigErrors(self.0)) }
    }
}
