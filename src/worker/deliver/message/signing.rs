//! Signs a message with the DKIM keys of its sender's domain (RFC 6376). RSA signatures, and signatures of large messages,
//! are computed on blocking threads, at most one per processor at a time.
//!
//! Messages of a domain whose keys cannot be decrypted are rescheduled: without a signature they might be refused
//! permanently, and they can be sent once the right `secret_key` is configured.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::db::domains::cache::{SenderCache, SenderStatus};
use crate::db::messages::stored::{StoredMessage, StoredMessageError};
use crate::domain::id::TenantId;
use crate::domain::message::Draft;
use crate::mail;

/// Size in bytes above which a message is signed on a blocking thread.
const BLOCKING_SIZE: usize = 256 << 10;

/// Builds and signs messages.
#[derive(Debug)]
pub(crate) struct Signing {
    senders: Arc<SenderCache>,
    /// One permit per processor.
    blocking: Semaphore,
}

impl Signing {
    pub(crate) fn new(senders: Arc<SenderCache>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { senders, blocking: Semaphore::new(processors) }
    }

    /// Builds a message, and signs it if its sender's domain has keys. A message that is passed on is not signed: it is not ours.
    pub(crate) async fn build(&self, message: &StoredMessage, draft: &Draft) -> Result<Vec<u8>, StoredMessageError> {
        if draft.relayed().is_some() {
            return Ok(mail::build(draft));
        }
        let status = self.senders.get(TenantId(message.row.tenant_id), draft.from.address.domain()).await?;
        let mut mime = mail::build(draft);
        let SenderStatus::Registered(sender) = status else { return Ok(mime) };
        let unsigned =
            |why: &dyn std::fmt::Display| StoredMessageError::NotSigned(sender.domain.clone(), why.to_string());
        let signer = match &sender.signer {
            Ok(Some(signer)) => signer.clone(),
            Ok(None) => return Ok(mime),
            Err(error) => return Err(unsigned(error)),
        };
        let at = draft.date;
        let signed = if signer.is_slow() || mime.len() > BLOCKING_SIZE {
            self.run_blocking(move || mail::dkim::sign(&mut mime, &signer, at).map(|()| mime)).await
        } else {
            mail::dkim::sign(&mut mime, &signer, at).map(|()| mime)
        };
        signed.map_err(|error| unsigned(&error))
    }

    async fn run_blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let _permit = self.blocking.acquire().await;
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done,
            // The caller catches panics, so that they affect only this message.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
