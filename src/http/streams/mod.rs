//! `/v1/streams`: what kinds of mail there are, how urgent each is, how fast it goes, and when it is tried again. There is
//! no call to delete one: lanes and messages name it.

pub mod control;
pub mod read;
mod view;

use std::time::Duration;

use super::ApiError;
use crate::db::streams::StreamRow;
use crate::domain::retry::Policy;

const NO_STREAM: ApiError = ApiError::NotFound("There is no stream with this name.");

/// When a stream's mail is tried again: by its own settings, and where it has none as configured.
pub(super) fn policy(stream: &StreamRow, configured: &Policy) -> Policy {
    let seconds = |seconds: i32| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let schedule = stream.retry_schedule.as_ref().map(|waits| waits.iter().copied().map(seconds).collect());
    Policy {
        schedule: schedule.unwrap_or_else(|| configured.schedule.clone()),
        window: stream.retry_window.map_or(configured.window, seconds),
        greylist: stream.greylist.map_or(configured.greylist, seconds),
    }
}
