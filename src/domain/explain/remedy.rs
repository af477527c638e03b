//! What would let a recipient go on, with the call that does it.

use chrono::{DateTime, Utc};

use super::{Kind, Place, Recipient};
use crate::domain::lane::RateOf;

/// Something that would help.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct Remedy {
    /// What to do.
    pub action: String,
    /// The call that does it; null where no call can.
    #[schema(example = "POST /v1/lanes/lane_42/resume")]
    pub call: Option<String>,
}

impl Remedy {
    pub(super) fn call(action: impl Into<String>, call: String) -> Self {
        Self { action: action.into(), call: Some(call) }
    }

    pub(super) fn words(action: impl Into<String>) -> Self {
        Self { action: action.into(), call: None }
    }
}

/// The remedies for what holds a recipient that waits.
pub(super) fn of(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> Vec<Remedy> {
    let mut remedies = against(kind, recipient, place, now);
    if !place.has_workers && kind != Kind::InFlight {
        remedies.push(Remedy::words("Start a worker: `postrider serve`, or `postrider serve --only worker`."));
    }
    remedies
}

fn against(kind: Kind, recipient: &Recipient, place: &Place, now: DateTime<Utc>) -> Vec<Remedy> {
    let lane = &place.lane;
    let message = recipient.message;
    let retry = |action: &str| Remedy::call(action, format!("POST /v1/messages/{message}/retry"));
    let reset = |action: &str| Remedy::call(action, format!("POST /v1/lanes/{}/reset", lane.id));
    match kind {
        Kind::Scheduled => {
            let call = format!("PATCH /v1/messages/{message} {{\"scheduled_at\": …}}");
            vec![Remedy::call("Move it; a time in the past means now.", call)]
        }
        Kind::RetryWait => vec![retry("Try it now, without waiting for its time.")],
        Kind::PutOff => {
            vec![Remedy::words(
                "Ask whoever runs postrider: its log says what is missing, and so does `postrider doctor`.",
            )]
        }
        Kind::Held => vec![retry("Try it again, once what the reason names is mended.")],
        Kind::StreamPaused => {
            vec![Remedy::call("Resume the stream.", format!("POST /v1/streams/{}/resume", lane.stream))]
        }
        Kind::LanePaused => vec![Remedy::call("Resume the lane.", format!("POST /v1/lanes/{}/resume", lane.id))],
        Kind::LaneBlocked => vec![
            Remedy::words("Mend the destination or the way to it; the next probe then opens the lane."),
            reset("Try it now, without waiting for the next probe."),
        ],
        Kind::LearnedLimit => vec![reset("Forget what was learned, if the destination takes more by now.")],
        Kind::Expiring if place.gives_up_at > now && lane.of_stream.paused.is_some() => {
            against(Kind::StreamPaused, recipient, place, now)
        }
        Kind::Expiring if place.gives_up_at > now && lane.paused.is_some() => {
            against(Kind::LanePaused, recipient, place, now)
        }
        Kind::Expiring if place.gives_up_at > now && recipient.attempts > 0 => {
            vec![retry("Try it now: no other attempt is left.")]
        }
        Kind::Expiring => vec![Remedy::words("Send a new message if it is still wanted.")],
        Kind::RateLimited => vec![match lane.holding_rate() {
            Some((_, RateOf::Stream)) => {
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
            vec![Remedy::call("Allow the stream more mails in flight.", call)]
        }
        Kind::NoWorker
        | Kind::InFlight
        | Kind::WorkerGone
        | Kind::Suspected
        | Kind::Queued
        | Kind::Lost
        | Kind::Ended => Vec::new(),
    }
}
