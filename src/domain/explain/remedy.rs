//! The actions that unblock a recipient, with their API calls.

use chrono::{DateTime, Utc};

use super::{Kind, QueueEntry, Recipient};
use crate::domain::lane::unreachable::Cause;
use crate::domain::lane::{Lane, RateSource};

/// An action that would unblock a recipient.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Remedy {
    /// The action, as an instruction.
    #[schema(example = "Resume the lane.")]
    pub action: String,
    /// The API call that does it; null if there is none.
    #[schema(example = "POST /v1/lanes/lane_42/resume")]
    pub call: Option<String>,
}

impl Remedy {
    pub(super) fn call(action: impl Into<String>, call: String) -> Self {
        Self { action: action.into(), call: Some(call) }
    }

    pub(super) fn advice(action: impl Into<String>) -> Self {
        Self { action: action.into(), call: None }
    }
}

/// Returns the remedies for what blocks a queued recipient.
pub(super) fn list(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> Vec<Remedy> {
    let mut remedies = for_kind(kind, recipient, entry, now);
    if !entry.has_workers && kind != Kind::InFlight {
        remedies.push(Remedy::advice("Start a worker: `postrider serve`, or `postrider serve --only worker`."));
    }
    remedies
}

fn for_kind(kind: Kind, recipient: &Recipient, entry: &QueueEntry, now: DateTime<Utc>) -> Vec<Remedy> {
    let lane = &entry.lane;
    let message = recipient.message;
    let retry = |action: &str| Remedy::call(action, format!("POST /v1/messages/{message}/retry"));
    let reset = |action: &str| Remedy::call(action, format!("POST /v1/lanes/{}/reset", lane.id));
    match kind {
        Kind::Scheduled => {
            let call = format!("PATCH /v1/messages/{message} {{\"scheduled_at\": …}}");
            vec![Remedy::call("Reschedule it; a time in the past means now.", call)]
        }
        // An attempt before the destination is reachable again would fail like the last one.
        Kind::RetryWait if lane.unreachable.is_some() => {
            vec![fix(lane), retry("Once that is fixed: retry now.")]
        }
        Kind::RetryWait if recipient.is_greylisted() => {
            vec![Remedy::advice("Wait for the next attempt; an earlier attempt would be refused again.")]
        }
        Kind::RetryWait => vec![retry("If the cause that the reply names is fixed: retry now.")],
        Kind::Unprepared => vec![
            Remedy::advice("Fix the configuration that the error names, and restart the workers."),
            reset("Once that is fixed: retry the lane's messages now; otherwise they are retried within 5 minutes."),
        ],
        Kind::Held => vec![retry("Once the cause that the reason names is fixed: retry now.")],
        Kind::TenantSuspended => {
            vec![Remedy::advice(
                "Ask the operator of this service to resume the tenant: `POST /v1/tenants/{id}/resume`.",
            )]
        }
        Kind::RestoreGuard => {
            vec![Remedy::advice("Ask the operator of this service to run `postrider release`.")]
        }
        Kind::StreamPaused => {
            let mut remedies =
                vec![Remedy::call("Resume the stream.", format!("POST /v1/streams/{}/resume", lane.stream))];
            if lane.paused.is_some() {
                remedies.extend(for_kind(Kind::LanePaused, recipient, entry, now));
            }
            remedies
        }
        Kind::LanePaused => vec![Remedy::call("Resume the lane.", format!("POST /v1/lanes/{}/resume", lane.id))],
        Kind::LaneBlocked => vec![fix(lane), reset("Once that is fixed: probe now.")],
        Kind::LearnedLimit => vec![reset("Reset the learned rate, if the destination accepts more now.")],
        Kind::Expiring if entry.gives_up_at > now && lane.stream_limits.suspended.is_some() => {
            for_kind(Kind::TenantSuspended, recipient, entry, now)
        }
        Kind::Expiring if entry.gives_up_at > now && lane.stream_limits.paused.is_some() => {
            for_kind(Kind::StreamPaused, recipient, entry, now)
        }
        Kind::Expiring if entry.gives_up_at > now && lane.paused.is_some() => {
            for_kind(Kind::LanePaused, recipient, entry, now)
        }
        Kind::Expiring if entry.gives_up_at > now && lane.unreachable.is_some() => {
            vec![fix(lane), retry("Once that is fixed: retry now; no other attempt is due before the message expires.")]
        }
        Kind::Expiring if entry.gives_up_at > now && recipient.attempts > 0 => {
            vec![retry("Retry now: no other attempt is due before the message expires.")]
        }
        Kind::Expiring => vec![Remedy::advice("Send a new message if it is still wanted.")],
        Kind::RateLimited => vec![match lane.limiting_rate() {
            Some((_, RateSource::Stream)) => {
                Remedy::call("Raise the stream's rate.", format!("PATCH /v1/streams/{} {{\"rate\": …}}", lane.stream))
            }
            _ => Remedy::call("Raise the lane's rate.", format!("PATCH /v1/lanes/{} {{\"rate\": …}}", lane.id)),
        }],
        Kind::ConnectionsFull if lane.is_full() => {
            let call = format!("PATCH /v1/lanes/{} {{\"connections\": …}}", lane.id);
            vec![Remedy::call("Allow the lane more connections.", call)]
        }
        Kind::ConnectionsFull => {
            let call = format!("PATCH /v1/streams/{} {{\"concurrency\": …}}", lane.stream);
            vec![Remedy::call("Raise the stream's concurrency.", call)]
        }
        Kind::NoWorker
        | Kind::InFlight
        | Kind::WorkerGone
        | Kind::Quarantined
        | Kind::Queued
        | Kind::Lost
        | Kind::Ended => Vec::new(),
    }
}

/// Returns how to make an unreachable destination reachable again.
fn fix(lane: &Lane) -> Remedy {
    let cause = lane.unreachable.as_ref().and_then(|unreachable| unreachable.cause);
    Remedy::advice(
        cause.map_or("Fix the destination or the network path; the next probe then reopens the lane.", Cause::fix),
    )
}
