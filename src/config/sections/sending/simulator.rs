//! `[simulator]`: addresses to try every outcome with.

use serde::{Deserialize, Serialize};

/// Simulator addresses.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Simulator {
    /// Whether messages to addresses at `simulator.postrider.test` are accepted.
    pub enabled: bool,
}
