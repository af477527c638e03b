//! Signs a mail with the keys of its sender's domain (RFC 6376). RSA and large mails are signed off the async threads,
//! few at a time.
//!
//! Mail of a domain whose keys cannot be opened waits: without a signature it might be refused for good, and a secret
//! that is configured again brings it back.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::db::drafts::{DraftError, Stored};
use crate::db::senders::{Senders, Standing};
use crate::domain::id::TenantId;
use crate::domain::message::Draft;
use crate::mail;

/// Mails over this many octets take long enough to hash to be signed elsewhere.
const LARGE: usize = 256 << 10;

/// What signs.
#[derive(Debug)]
pub(crate) struct Signing {
    senders: Arc<Senders>,
    /// As many at a time as there are processors.
    turns: Semaphore,
}

impl Signing {
    pub(crate) fn new(senders: Arc<Senders>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { senders, turns: Semaphore::new(processors) }
    }

    /// Builds the mail and signs it, where its sender's domain has keys.
    pub(crate) async fn build(&self, message: &Stored, draft: &Draft) -> Result<Vec<u8>, DraftError> {
        let standing = self.senders.of(TenantId(message.row.tenant_id), draft.from.address.domain()).await?;
        let mut mime = mail::build(draft);
        let Standing::Known(sender) = standing else { return Ok(mime) };
        let unsigned = |why: &dyn std::fmt::Display| DraftError::Unsigned(sender.domain.clone(), why.to_string());
        let signer = match &sender.signer {
            Ok(Some(signer)) => signer.clone(),
            Ok(None) => return Ok(mime),
            Err(error) => return Err(unsigned(error)),
        };
        let at = draft.date;
        let done = if signer.is_slow() || mime.len() > LARGE {
            self.elsewhere(move || mail::dkim::sign(&mut mime, &signer, at).map(|()| mime)).await
        } else {
            mail::dkim::sign(&mut mime, &signer, at).map(|()| mime)
        };
        done.map_err(|error| unsigned(&error))
    }

    async fn elsewhere<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _turn = self.turns.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            // It concerns this mail alone, and is caught where this one would be.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
