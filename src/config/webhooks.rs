//! `[webhooks]`: where events may be posted.

use serde::{Deserialize, Serialize};

/// Limits on webhook endpoints.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Webhooks {
    /// Whether endpoints may be at private and loopback addresses: `POSTRIDER_WEBHOOKS__ALLOW_PRIVATE`, default false
    /// (`true` in `dev`). With it, whoever may create a webhook can reach what this machine can reach.
    pub allow_private: bool,
}
