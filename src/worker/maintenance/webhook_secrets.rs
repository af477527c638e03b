//! Encrypts webhook secrets that are stored unencrypted, and removes expired ones.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::SharedClock;
use crate::db::{Db, DbError, webhooks};
use crate::domain::id::EndpointId;
use crate::domain::installation::keyring::Keyring;
use crate::domain::webhook::endpoint::StoredSecret;

/// Poll interval.
const INTERVAL: Duration = Duration::from_mins(1);
/// Number of endpoints whose secrets are encrypted together.
const BATCH: i64 = 100;

/// The dependencies of the task.
#[derive(Debug)]
pub(crate) struct WebhookSecrets {
    pub db: Db,
    pub clock: SharedClock,
    /// Encrypts secrets, if a `secret_key` is configured.
    pub keyring: Option<Keyring>,
}

pub(crate) async fn run(secrets: Arc<WebhookSecrets>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut has_warned = false;
    loop {
        ticks.tick().await;
        match secrets.once().await {
            Ok(0) => {}
            Ok(_) if has_warned => {}
            Ok(left) => {
                has_warned = true;
                tracing::warn!(
                    event = "webhook_secrets_unencrypted",
                    left,
                    "webhook secrets are stored unencrypted; set secret_key to the output of `openssl rand -base64 33`"
                );
            }
            Err(error) => tracing::debug!(
                event = "webhook_secrets_failed",
                %error,
                "failed to encrypt or remove webhook secrets; trying again"
            ),
        }
    }
}

impl WebhookSecrets {
    /// Returns how many endpoints have an unencrypted secret because there is no `secret_key`, counted up to [`BATCH`].
    pub(crate) async fn once(&self) -> Result<usize, DbError> {
        webhooks::secrets::remove_expired(&self.db, self.clock.now()).await?;
        let mut unencrypted = webhooks::secrets::unencrypted(&self.db, BATCH).await?;
        let Some(keyring) = &self.keyring else { return Ok(unencrypted.len()) };
        while !unencrypted.is_empty() && webhooks::secrets::can_encrypt(&self.db).await? {
            for one in &unencrypted {
                let seal = |secret: &Option<Vec<u8>>| {
                    let id = EndpointId(one.id);
                    secret.as_ref().map(|secret| StoredSecret::seal(secret, Some(keyring), id)).transpose()
                };
                match (seal(&one.secret), seal(&one.old_secret)) {
                    (Ok(secret), Ok(old)) => {
                        webhooks::secrets::replace(&self.db, one, secret.as_ref(), old.as_ref()).await?;
                    }
                    (Err(error), _) | (_, Err(error)) => {
                        tracing::error!(
                            event = "webhook_secret_not_sealed",
                            %error,
                            "cannot encrypt webhook secrets; keeping them unencrypted and trying again in a minute"
                        );
                        return Ok(0);
                    }
                }
            }
            tracing::info!(
                event = "webhook_secrets_sealed",
                count = unencrypted.len(),
                "encrypted webhook secrets at rest"
            );
            unencrypted = webhooks::secrets::unencrypted(&self.db, BATCH).await?;
        }
        Ok(0)
    }
}
