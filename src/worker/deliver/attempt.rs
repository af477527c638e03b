//! One mail: build it, send it, hand over what came of it. Whatever goes wrong here concerns this mail alone.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::envelopes::{Envelope, envelopes};
use super::lease_check::LeaseCheck;
use super::loaded_message::LoadedMessage;
use super::memory_budget::Held;
use crate::db::drafts::DraftError;
use crate::db::queue::{Claimed, Finished, Rescheduled};
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::MessageId;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::retry::{Attempt, Policy};
use crate::smtp::NotBegun;
use crate::worker::Parts;
use crate::worker::claim::allocation::URGENT;
use crate::worker::lease::release;

/// A mail that is ready to go.
struct Prepared<'a> {
    mime: Vec<u8>,
    envelopes: Vec<Envelope>,
    /// Held until the mail has gone.
    _memory: Option<Held<'a>>,
}

/// When and how often this attempt is.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    at: DateTime<Utc>,
    clock: Instant,
}

/// When an attempt ended, and how far its retry is moved: the same for all recipients of an envelope, so that they go
/// together again.
#[derive(Clone, Copy)]
pub(crate) struct End {
    at: DateTime<Utc>,
    dice: f64,
}

impl End {
    pub(crate) fn now(parts: &Parts) -> Self {
        Self { at: parts.clock.now(), dice: rand::random() }
    }
}

/// Delivers a mail and completes each of its claimed recipients, whatever happens: what panics on the way is an attempt that
/// failed, of those that were not completed before.
pub(crate) async fn run(parts: Arc<Parts>, mut mail: LoadedMessage) {
    if parts.closing.is_cancelled() {
        return release::release(&parts.db, &parts.in_flight, mail.claimed).await;
    }
    let start = Start { at: parts.clock.now(), clock: Instant::now() };
    let Ok(late) = AssertUnwindSafe(take_late(&parts, &mut mail, start)).catch_unwind().await else {
        return fail(&parts, &mail, PANICKED, start).await;
    };
    if !late.is_empty() {
        parts.completer.complete(late);
    }
    if mail.claimed.is_empty() {
        return;
    }
    let preparing = parts.closing.run_until_cancelled(prepare(&parts, &mut mail));
    let Prepared { mime, envelopes, _memory } = match AssertUnwindSafe(preparing).catch_unwind().await {
        Ok(Some(Ok(prepared))) => prepared,
        Ok(None) => return release::release(&parts.db, &parts.in_flight, mail.claimed).await,
        // The database's trouble is not the recipient's attempt.
        Ok(Some(Err(DraftError::Db(error)))) if error.is_passing() => {
            tracing::warn!(%error, "could not load a mail; giving it back");
            return give_back_later(&parts, mail.claimed).await;
        }
        // What the database said is for our log; the recipient's history gets our words.
        Ok(Some(Err(DraftError::Db(error)))) => {
            tracing::error!(%error, "a mail could not be loaded");
            return fail(&parts, &mail, UNREADABLE, start).await;
        }
        // Nor is it the recipient's that we cannot sign, or make a link: mended, it goes as if nothing had been.
        Ok(Some(Err(error @ (DraftError::Unsigned(..) | DraftError::NoLinks)))) => {
            return put_off(&parts, mail, &error).await;
        }
        Ok(Some(Err(error))) => return fail(&parts, &mail, &error.to_string(), start).await,
        Err(_) => return fail(&parts, &mail, PANICKED, start).await,
    };
    // Each route completes its own recipients: a slow server must not keep another's answer from being recorded.
    join_all(envelopes.into_iter().map(|one| along(&parts, &mail, one, &mime, start))).await;
}

const UNREADABLE: &str = "postrider could not read this mail from its database; see its log";
const PANICKED: &str = "postrider failed while it worked on this mail; see its log";
/// Why recipients are held whose attempt cannot even be called a failure.
const NOT_JUDGED: &str =
    "held: postrider failed while it worked on this mail, and cannot tell when to try again; see its log";

/// Takes out those whose time has run out.
async fn take_late(parts: &Parts, mail: &mut LoadedMessage, start: Start) -> Vec<Finished> {
    parts.policies.refresh(&parts.db, start.at).await;
    let is_late = |claimed: &Claimed| start.at >= deadline(parts, mail, claimed);
    let (late, in_time) = mail.claimed.iter().cloned().partition(is_late);
    let late: Vec<Claimed> = late;
    mail.claimed = in_time;
    late.into_iter().map(|claimed| expired(claimed, start.at)).collect()
}

/// Builds the mail once for all its routes.
async fn prepare<'a>(parts: &'a Parts, mail: &mut LoadedMessage) -> Result<Prepared<'a>, DraftError> {
    let recipients = mail.recipients()?;
    let memory = if mail.message.is_large() { Some(memory(parts, mail).await) } else { None };
    let draft = mail.message.draft(&parts.db, parts.settings.links.as_ref()).await?;
    let envelopes = envelopes(parts, mail, &draft.from.address, recipients, parts.clock.now());
    let mime = parts.signing.build(&mail.message, &draft).await?;
    Ok(Prepared { mime, envelopes, _memory: memory })
}

/// Sends a mail along one route and completes those recipients.
async fn along(parts: &Parts, mail: &LoadedMessage, one: Envelope, mime: &[u8], start: Start) {
    let Envelope { route, envelope, claimed } = one;
    let watch = LeaseCheck::new(parts, mail, &claimed, start);
    let is_alone = envelope.to.len() == 1;
    let sending = async {
        let outcomes = parts.sender.send_if(&route, &envelope, mime, &parts.terms(&claimed, &watch)).await?;
        parts.policies.refresh(&parts.db, parts.clock.now()).await;
        let end = End::now(parts);
        let judged = |(claimed, outcome): (&Claimed, Outcome)| Finished {
            is_alone,
            ..judge(parts, mail, claimed.clone(), outcome, start, end)
        };
        let left = claimed.iter().zip(outcomes).enumerate().filter(|(place, _)| !watch.has_settled(*place));
        Ok(left.map(|(_, one)| judged(one)).collect())
    };
    match AssertUnwindSafe(sending).catch_unwind().await {
        Ok(Ok(finished)) => parts.completer.complete(finished),
        Ok(Err(NotBegun(why))) => {
            tracing::debug!(why = why.text, "a mail was not begun; giving it back");
            give_back_later(parts, watch.unsettled()).await;
        }
        Err(_) => {
            // Once the text may have left, nobody knows whether it arrived.
            let (verdict, stage) = if watch.has_passed_text() {
                (Verdict::Uncertain, Stage::Dot)
            } else {
                (Verdict::Temporary, Stage::Data)
            };
            let outcome = Outcome { verdict, stage, ..ours(PANICKED, start) };
            complete_all(parts, mail, watch.unsettled(), &outcome, start).await;
        }
    }
}

/// Gives back after a pause, unless the worker is stopping: what is free again at once would be claimed again at once, and
/// fail again.
async fn give_back_later(parts: &Parts, claimed: Vec<Claimed>) {
    parts.closing.run_until_cancelled(tokio::time::sleep(release::PAUSE)).await;
    release::release(&parts.db, &parts.in_flight, claimed).await;
}

/// How long a mail waits that our configuration keeps from being made.
const PUT_OFF: TimeDelta = TimeDelta::minutes(5);

/// Gives back what our configuration keeps from being made, without an attempt. Its time runs on.
async fn put_off(parts: &Parts, mail: LoadedMessage, error: &DraftError) {
    let now = parts.clock.now();
    parts.alarms.raise(&mail.message.row.stream, error, now);
    let end = mail.claimed.iter().map(|claimed| deadline(parts, &mail, claimed)).min();
    let until = end.map_or(now + PUT_OFF, |end| end.min(now + PUT_OFF));
    let why = error.to_string();
    let to = Rescheduled { until: Some(until), problem: Some((&why, now)) };
    release::reschedule(&parts.db, &parts.in_flight, mail.claimed, to).await;
}

/// While it is built a large mail is in memory as attachments and as MIME, which is a third longer; it is signed where it
/// stands.
async fn memory<'a>(parts: &'a Parts, mail: &LoadedMessage) -> Held<'a> {
    let octets = u64::try_from(mail.message.row.size).unwrap_or(0).saturating_mul(5) / 2;
    let lane = mail.claimed.first().and_then(|row| parts.in_flight.lane(row.lane_id));
    parts.budget.hold(octets, lane.is_some_and(|lane| lane.priority <= URGENT)).await
}

/// Nothing was handed over, and the reason is ours: the attempt counts, so that it is not repeated at once.
async fn fail(parts: &Parts, mail: &LoadedMessage, reason: &str, start: Start) {
    let message = MessageId(mail.message.row.id);
    tracing::error!(message_id = %message, reason, "a mail could not be prepared");
    complete_all(parts, mail, mail.claimed.clone(), &ours(reason, start), start).await;
}

/// Completes them all with the same outcome. Where it is the judging that panics they are held, so that no hand is lost.
async fn complete_all(parts: &Parts, mail: &LoadedMessage, claimed: Vec<Claimed>, outcome: &Outcome, start: Start) {
    let end = End::now(parts);
    let judged = |claimed: &Claimed| judge(parts, mail, claimed.clone(), outcome.clone(), start, end);
    let finished = AssertUnwindSafe(|| claimed.iter().map(judged).collect());
    match std::panic::catch_unwind(finished) {
        Ok(finished) => parts.completer.complete(finished),
        Err(_) => release::hold(&parts.db, &parts.in_flight, claimed, NOT_JUDGED).await,
    }
}

fn ours(reason: &str, start: Start) -> Outcome {
    Outcome {
        verdict: Verdict::Temporary,
        reply: Reply::ours(reason),
        peer: Peer::default(),
        duration: start.clock.elapsed(),
        // Nothing that the destination could be blamed for.
        stage: Stage::Data,
    }
}

pub(crate) fn judge(
    parts: &Parts,
    mail: &LoadedMessage,
    claimed: Claimed,
    outcome: Outcome,
    start: Start,
    end: End,
) -> Finished {
    let attempt = Attempt {
        number: u32::try_from(claimed.attempts).unwrap_or(0) + 1,
        deadline: deadline(parts, mail, &claimed),
        on_uncertain: mail.on_uncertain(),
    };
    let transition = outcome.next(&attempt, &policy(parts, mail), end.at, end.dice);
    tracing::debug!(
        message_id = %MessageId(claimed.message_id),
        attempt = attempt.number,
        status = %transition.status(),
        reply = outcome.reply.text,
        "attempt over"
    );
    Finished { claimed, outcome: Some(outcome), transition, started_at: start.at, is_alone: false }
}

/// After this no attempt begins.
pub(crate) fn deadline(parts: &Parts, mail: &LoadedMessage, claimed: &Claimed) -> DateTime<Utc> {
    let row = &mail.message.row;
    let pauses = parts.policies.pauses();
    let stream = (row.tenant_id, row.stream.as_str());
    let stood_still = pauses.paused_time(stream, claimed.lane_id, claimed.first_due_at, parts.clock.now());
    policy(parts, mail).deadline(claimed.first_due_at + stood_still, row.expires_at)
}

fn policy(parts: &Parts, mail: &LoadedMessage) -> Arc<Policy> {
    parts.policies.of(mail.message.row.tenant_id, &mail.message.row.stream)
}

/// Completes recipients whose time has run out where they waited.
pub(crate) fn expire(parts: &Parts, claimed: Vec<Claimed>) {
    let now = parts.clock.now();
    parts.completer.complete(claimed.into_iter().map(|claimed| expired(claimed, now)).collect());
}

fn expired(claimed: Claimed, started_at: DateTime<Utc>) -> Finished {
    Finished { claimed, outcome: None, transition: Transition::End(Status::Expired), started_at, is_alone: false }
}
