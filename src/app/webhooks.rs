//! Where webhooks may be, as the API asks it.

use crate::http::TargetCheck;

/// Admits every target: there is no guard yet to ask. Here it is built from `config.webhooks` and asked for the URL.
pub(super) fn target_check() -> TargetCheck {
    TargetCheck::new(|_url| Box::pin(async { Ok(()) }))
}
