//! `/v1/webhooks`: webhook endpoints, their delivery attempts, and replay.

pub mod control;
pub mod deliveries;
pub mod posts;
pub mod read;
pub mod replay;
pub mod secret;
mod target;
pub mod test;
pub(super) mod view;

pub use target::TargetCheck;

use super::{Api, ApiError};
use crate::db::webhooks;
use crate::domain::id::{EndpointId, TenantId};
use crate::domain::webhook::endpoint::{Secret, StoredSecret};
use view::WebhookView;

const NO_WEBHOOK: ApiError = ApiError::NotFound("No webhook endpoint has this id.");

/// Reads a webhook endpoint.
async fn load_view(api: &Api, tenant: TenantId, id: EndpointId) -> Result<WebhookView, ApiError> {
    let row = webhooks::get(&api.db, tenant, id).await?.ok_or(NO_WEBHOOK)?;
    Ok(WebhookView::from_row(row, api.clock.now()))
}

/// Creates a secret, in plain text and as stored: encrypted if a key is configured and every worker supports it.
async fn new_secret(api: &Api, id: EndpointId) -> Result<(Secret, StoredSecret), ApiError> {
    let secret = Secret::from_bytes(rand::random());
    let keyring = api.domains.keyring.as_ref();
    let keyring = if keyring.is_some() && webhooks::secrets::can_encrypt(&api.db).await? { keyring } else { None };
    let stored = StoredSecret::seal(secret.bytes(), keyring, id).map_err(|error| {
        tracing::error!(event = "webhook_secret_not_sealed", %error, "cannot encrypt webhook secret; returned 500");
        ApiError::Internal
    })?;
    Ok((secret, stored))
}
