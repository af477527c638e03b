//! `[dkim]`: signing algorithms.

use serde::{Deserialize, Serialize};

use crate::domain::sender_domain::dkim::Algorithm;

/// DKIM signing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dkim {
    /// Algorithms of the keys that sign a domain's messages, in any order: `ed25519`, `rsa` or both, or only `none`.
    /// Every receiver supports RSA, which takes 0.3 ms per message; ed25519 is twenty times faster.
    pub algorithms: Vec<String>,
}

/// The value for no signatures. An empty list cannot express this, because an empty environment variable counts as unset.
const NONE: &str = "none";

impl Dkim {
    /// Returns the algorithms in the order in which they sign, without duplicates.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        // Invalid algorithms were refused when the configuration was read.
        let mut algorithms: Vec<Algorithm> = self.algorithms.iter().filter_map(|name| name.parse().ok()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        algorithms
    }

    pub(in crate::config) fn check(&self) -> Result<(), String> {
        match self.algorithms.as_slice() {
            [none] if none == NONE => Ok(()),
            list => list.iter().try_for_each(|name| {
                let algorithm = name.parse::<Algorithm>();
                algorithm.map(|_| ()).map_err(|_| format!("must be ed25519, rsa or both, or only none, is {name:?}"))
            }),
        }
    }
}
