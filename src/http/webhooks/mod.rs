//! `/v1/webhooks`: where events are posted, what became of the posts, and having them posted again.

pub mod control;
pub mod deliveries;
pub mod read;
pub mod replay;
pub mod secret;
mod target;
pub mod test;
mod view;

pub use target::TargetCheck;

use super::{Api, ApiError};
use crate::db::webhooks;
use crate::domain::id::{EndpointId, TenantId};
use view::WebhookView;

const NO_WEBHOOK: ApiError = ApiError::NotFound("There is no webhook with this id.");

/// An endpoint as it stands now.
async fn shown(api: &Api, tenant: TenantId, id: EndpointId) -> Result<WebhookView, ApiError> {
    let row = webhooks::get(&api.db, tenant, id).await?.ok_or(NO_WEBHOOK)?;
    Ok(WebhookView::of(row, api.clock.now()))
}
