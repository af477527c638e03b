//! Encrypts webhook secrets that are in the clear, and removes those that sign no more.

use std::sync::Arc;
use std::time::Duration;

use crate::db::{DbError, webhook_secrets};
use crate::domain::endpoint::StoredSecret;
use crate::domain::id::EndpointId;
use crate::worker::Parts;

/// Poll interval.
const EVERY: Duration = Duration::from_mins(1);
/// Endpoints encrypted in one go.
const SOME: i64 = 100;

pub(crate) async fn run(parts: Arc<Parts>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut has_warned = false;
    loop {
        ticks.tick().await;
        match once(&parts).await {
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
            Err(error) => tracing::debug!(%error, "could not look after webhook secrets"),
        }
    }
}

/// Returns how many endpoints have a secret that stays in the clear, counted to [`SOME`], since there is no `secret_key`.
pub(crate) async fn once(parts: &Parts) -> Result<usize, DbError> {
    webhook_secrets::remove_expired(&parts.db, parts.clock.now()).await?;
    let mut clear = webhook_secrets::clear(&parts.db, SOME).await?;
    let Some(keyring) = &parts.settings.keyring else { return Ok(clear.len()) };
    while !clear.is_empty() && webhook_secrets::may_seal(&parts.db).await? {
        for one in &clear {
            let seal = |secret: &Option<Vec<u8>>| {
                secret.as_ref().map(|secret| StoredSecret::seal(secret, Some(keyring), EndpointId(one.id))).transpose()
            };
            match (seal(&one.secret), seal(&one.old_secret)) {
                (Ok(secret), Ok(old)) => {
                    webhook_secrets::seal(&parts.db, one, secret.as_ref(), old.as_ref()).await?;
                }
                (Err(error), _) | (_, Err(error)) => {
                    tracing::error!(event = "webhook_secret_not_sealed", %error, "cannot encrypt webhook secrets");
                    return Ok(0);
                }
            }
        }
        tracing::info!(event = "webhook_secrets_sealed", count = clear.len(), "encrypted webhook secrets at rest");
        clear = webhook_secrets::clear(&parts.db, SOME).await?;
    }
    Ok(0)
}
