//! `/v1/lanes`: queues with their limits, pauses, resets and retries.

pub mod control;
pub mod list;
pub mod trace;
mod view;

pub use view::PausedView;

use crate::db::lanes;
use crate::db::messages::explain;
use crate::domain::id::{LaneId, TenantId};
use crate::domain::lane::Lane;

use super::{Api, ApiError};
use view::{LaneSettingsView, LaneView};

const NO_LANE: ApiError = ApiError::NotFound("No lane has this id.");

/// Returns lanes with their queue counts.
async fn load_views(api: &Api, lanes: Vec<Lane>) -> Result<Vec<LaneView>, ApiError> {
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.id.0).collect();
    let loads = lanes::overview::loads(&api.db, &ids, api.clock.now()).await?;
    let has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
    let views = lanes.into_iter().zip(&loads).map(|(lane, load)| {
        LaneView::new(LaneSettingsView::new(lane, has_workers, load.unprepared.as_ref(), &api.delivery), load)
    });
    Ok(views.collect())
}

/// Reads one lane with its queue counts.
async fn load_one(api: &Api, tenant: TenantId, id: LaneId) -> Result<LaneView, ApiError> {
    let lane = lanes::overview::lane(&api.db, tenant, id, api.clock.now()).await?.ok_or(NO_LANE)?;
    load_views(api, vec![lane]).await?.pop().ok_or(NO_LANE)
}

/// Reads one lane without queue counts, so that a change of a lane cannot fail because counting takes too long.
async fn load_settings(api: &Api, tenant: TenantId, id: LaneId) -> Result<LaneSettingsView, ApiError> {
    let lane = lanes::overview::lane(&api.db, tenant, id, api.clock.now()).await?.ok_or(NO_LANE)?;
    let has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
    let unprepared = lanes::overview::unprepared(&api.db, &[id.0]).await?.pop().flatten();
    Ok(LaneSettingsView::new(lane, has_workers, unprepared.as_ref(), &api.delivery))
}
