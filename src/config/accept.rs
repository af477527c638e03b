//! `[accept]`: limits on the size of requests and on the memory they use.

use serde::{Deserialize, Serialize};

use super::range::within;

/// Limits on requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accept {
    /// Maximum size of a request body: `POSTRIDER_ACCEPT__MAX_BODY_MIB`, MiB, 1–100, default 40. Larger bodies get 413.
    pub max_body_mib: u32,
    /// Total memory for large request bodies, received and decoded: `POSTRIDER_ACCEPT__BODY_MEMORY_MIB`, MiB, 1–65536,
    /// default 64, not less than `max_body_mib`. Further requests wait for free memory; a single larger one is read
    /// alone.
    pub body_memory_mib: u32,
    /// Recipients in one message, to, cc and bcc together: `POSTRIDER_ACCEPT__MAX_RECIPIENTS`, 1–1000, default 50.
    pub max_recipients: u32,
    /// Attachments in one message: `POSTRIDER_ACCEPT__MAX_ATTACHMENTS`, 0–1000, default 20.
    pub max_attachments: u32,
}

impl Default for Accept {
    fn default() -> Self {
        Self { max_body_mib: 40, body_memory_mib: 64, max_recipients: 50, max_attachments: 20 }
    }
}

impl Accept {
    pub(super) fn check(&self) -> Result<(), String> {
        within(self.max_body_mib, 1..=100)?;
        within(self.body_memory_mib, 1..=65_536)?;
        within(self.max_recipients, 1..=1_000)?;
        within(self.max_attachments, 0..=1_000)
    }

    /// Whether the largest allowed body can ever be read.
    pub(super) fn has_room(&self) -> bool {
        self.body_memory_mib >= self.max_body_mib
    }
}
