//! `[accept]`: limits on the size of requests and on the memory they use.

use serde::{Deserialize, Serialize};

use crate::config::values::range::within;

/// Limits on requests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Accept {
    /// Maximum size of a request body, in MiB, 1–100. Larger bodies get 413.
    pub max_body_mib: u32,
    /// Maximum size of an uploaded file, and of all files of a form together, in MiB, 1–1024. Larger ones get 413. The
    /// attachments of one message together may have this size, or `max_body_mib` if that is larger.
    pub max_upload_mib: u32,
    /// Total memory for large request bodies, received and decoded, in MiB, 1–65536, not less than `max_body_mib`.
    /// Further requests wait for free memory; a single larger one is read alone. The messages of batches, the output of
    /// templates, large responses, and the bodies of the Resend API may each take as much again; the Resend API may
    /// take 6 times `max_body_mib` if that is more.
    pub body_memory_mib: u32,
    /// Maximum number of recipients in one message, to, cc and bcc together, 1–1000.
    pub max_recipients: u32,
    /// Maximum number of attachments in one message, 0–1000.
    pub max_attachments: u32,
}

impl Accept {
    pub(in crate::config) fn check(&self) -> Result<(), String> {
        within(self.max_body_mib, 1..=100)?;
        within(self.max_upload_mib, 1..=1_024)?;
        within(self.body_memory_mib, 1..=65_536)?;
        within(self.max_recipients, 1..=1_000)?;
        within(self.max_attachments, 0..=1_000)
    }

    /// Returns whether a body of the maximum size fits into the memory for bodies.
    pub(in crate::config) fn fits_largest_body(&self) -> bool {
        self.body_memory_mib >= self.max_body_mib
    }
}
