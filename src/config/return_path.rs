//! `[return_path]`: where bounces go.

use serde::{Deserialize, Serialize};

/// How bounces find their message.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ReturnPath {
    /// The domain that bounces go to: `POSTRIDER_RETURN_PATH__DOMAIN`, a domain name whose MX points to `hostname`,
    /// default unset, which means the sender's own address.
    pub domain: Option<String>,
}
