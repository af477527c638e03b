//! `[dkim]`: which keys sign.

use serde::{Deserialize, Serialize};

use crate::domain::dkim::Algorithm;

/// How mail is signed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dkim {
    /// Which of a domain's keys sign its mail, in this order: `POSTRIDER_DKIM__ALGORITHMS`, `ed25519`, `rsa` or both,
    /// or `none` alone, default both. RSA is known to every receiver and costs 0.3 ms a mail; ed25519 is twenty times
    /// faster.
    pub algorithms: Vec<String>,
}

impl Default for Dkim {
    fn default() -> Self {
        Self { algorithms: Algorithm::ALL.map(|algorithm| algorithm.to_string()).to_vec() }
    }
}

/// The word for no signatures at all: an empty variable counts as not set.
const NONE: &str = "none";

impl Dkim {
    /// The algorithms, as the domain knows them.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        // What is no algorithm was refused when the configuration was read.
        let mut algorithms: Vec<Algorithm> = self.algorithms.iter().filter_map(|word| word.parse().ok()).collect();
        algorithms.sort_unstable();
        algorithms.dedup();
        algorithms
    }

    pub(super) fn check(&self) -> Result<(), String> {
        match self.algorithms.as_slice() {
            [none] if none == NONE => Ok(()),
            list => list.iter().try_for_each(|word| {
                let known = word.parse::<Algorithm>();
                known.map(|_| ()).map_err(|_| format!("holds ed25519, rsa or both, or none alone, and not {word:?}"))
            }),
        }
    }
}
