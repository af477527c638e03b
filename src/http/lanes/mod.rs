//! `/v1/lanes`: what waits where, and why; limits, pauses, another try.

pub mod control;
pub mod list;
mod view;

pub use view::PausedView;

use crate::db::lanes;
use crate::db::messages::explain;
use crate::domain::id::{LaneId, TenantId};
use crate::domain::lane::Lane;

use super::{Api, ApiError};
use view::{LaneView, TermsView};

const NO_LANE: ApiError = ApiError::NotFound("There is no lane with this id.");

/// Lanes with what waits in them.
async fn shown(api: &Api, lanes: Vec<Lane>) -> Result<Vec<LaneView>, ApiError> {
    let ids: Vec<i64> = lanes.iter().map(|lane| lane.id.0).collect();
    let loads = lanes::overview::loads(&api.db, &ids, api.clock.now()).await?;
    let has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
    let shown = lanes.into_iter().zip(&loads).map(|(lane, load)| {
        LaneView::of(TermsView::of(lane, has_workers, load.unprepared.as_ref(), &api.delivery), load)
    });
    Ok(shown.collect())
}

/// One lane as it stands now.
async fn shown_one(api: &Api, tenant: TenantId, id: LaneId) -> Result<LaneView, ApiError> {
    let lane = lanes::overview::lane(&api.db, tenant, id, api.clock.now()).await?.ok_or(NO_LANE)?;
    shown(api, vec![lane]).await?.pop().ok_or(NO_LANE)
}

/// The same without a look at its queue: whoever stops a lane must not be told that counting failed.
async fn terms(api: &Api, tenant: TenantId, id: LaneId) -> Result<TermsView, ApiError> {
    let lane = lanes::overview::lane(&api.db, tenant, id, api.clock.now()).await?.ok_or(NO_LANE)?;
    let has_workers = explain::has_workers(&api.db, api.delivery.lease).await?;
    let unprepared = lanes::overview::unprepared(&api.db, &[id.0]).await?.pop().flatten();
    Ok(TermsView::of(lane, has_workers, unprepared.as_ref(), &api.delivery))
}
