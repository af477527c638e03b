//! One attempt at one message: prepares it, sends it, and records the outcome of each recipient. A failure here affects
//! only this message.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use chrono::TimeDelta;
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::DeliverContext;
use super::envelopes::{Envelope, NextHop, envelopes};
use super::lease_check::LeaseCheck;
use super::message::loaded_message::LoadedMessage;
use super::transition::{self, AttemptEnd, AttemptStart};
use crate::db::messages::blobs::objects;
use crate::db::messages::stored::StoredMessageError;
use crate::db::queue::{Claimed, Finished, Rescheduled};
use crate::domain::id::MessageId;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::limiter::ReservedPermit;
use crate::object_storage::ObjectError;
use crate::simulator;
use crate::smtp::{self, NotAttempted};
use crate::telemetry::traces::{self, Scope};
use crate::worker::lease::release::RETRY_PAUSE;

/// A message that is ready to be sent.
struct Prepared {
    mime: Vec<u8>,
    envelopes: Vec<Envelope>,
    /// Reserved until the message is sent.
    _memory: ReservedPermit,
}

const LOAD_FAILED_REPLY: &str = "postrider failed to read this message from its database; see its log";
const PANICKED_REPLY: &str = "postrider failed while processing this message; see its log";
/// Reason for holding recipients whose failed attempt cannot be classified.
const NOT_JUDGED_REASON: &str =
    "held: postrider failed while processing this message, and cannot determine the next attempt; see its log";

/// Delay of a message that cannot be prepared because of the configuration.
const CONFIGURATION_DELAY: TimeDelta = TimeDelta::minutes(5);
/// Delay of a message whose attachment cannot be read now.
const OBJECT_DELAY: TimeDelta = TimeDelta::minutes(1);

/// Delivers a message and completes each of its claimed recipients. A panic counts as a failed attempt of the
/// recipients that were not completed before.
pub(crate) async fn run(cx: Arc<DeliverContext>, mut message: LoadedMessage) {
    if cx.closing.is_cancelled() {
        return cx.leases.release(message.claimed).await;
    }
    let start = AttemptStart::now(&cx);
    let Ok(expired) = AssertUnwindSafe(take_expired(&cx, &mut message, start)).catch_unwind().await else {
        return fail(&cx, &message, PANICKED_REPLY, start).await;
    };
    if !expired.is_empty() {
        cx.recorder.record(expired);
    }
    if message.claimed.is_empty() {
        return;
    }
    let preparing = cx.closing.run_until_cancelled(prepare(&cx, &mut message));
    let Prepared { mime, envelopes, _memory } = match AssertUnwindSafe(preparing).catch_unwind().await {
        Ok(Some(Ok(prepared))) => prepared,
        Ok(None) => return cx.leases.release(message.claimed).await,
        // A database outage does not count as an attempt.
        Ok(Some(Err(StoredMessageError::Db(error)))) if error.is_temporary() => {
            tracing::warn!(event = "load_failed", %error, "failed to load a message; releasing it");
            return release_later(&cx, message.claimed).await;
        }
        // The database's error goes to the log; the recipient's history gets a general text.
        Ok(Some(Err(StoredMessageError::Db(error)))) => {
            tracing::error!(event = "message_unreadable", %error, "cannot load a message; failing its attempt");
            return fail(&cx, &message, LOAD_FAILED_REPLY, start).await;
        }
        // A message that cannot be signed or rendered, or that lacks its unsubscribe link or its server, has no attempt counted
        // either: it is sent once the cause is fixed.
        Ok(Some(Err(
            error @ (StoredMessageError::NotSigned(..)
            | StoredMessageError::NoUnsubscribeLinks
            | StoredMessageError::NoRelay(_)
            | StoredMessageError::NotRendered(_)),
        ))) => {
            return reschedule(&cx, message, &error, CONFIGURATION_DELAY).await;
        }
        Ok(Some(Err(StoredMessageError::Objects(error)))) => {
            return Box::pin(wait_for_object(&cx, message, error)).await;
        }
        Ok(Some(Err(error))) => return fail(&cx, &message, &error.to_string(), start).await,
        Err(_) => return fail(&cx, &message, PANICKED_REPLY, start).await,
    };
    // Each envelope completes its own recipients: a slow server must not delay the outcomes of another.
    match <[Envelope; 1]>::try_from(envelopes) {
        Ok([envelope]) => send(&cx, &message, envelope, &mime, start).await,
        Err(envelopes) => {
            join_all(envelopes.into_iter().map(|envelope| send(&cx, &message, envelope, &mime, start))).await;
        }
    }
}

/// Removes the recipients whose deadline has passed, and returns their outcomes.
async fn take_expired(cx: &DeliverContext, message: &mut LoadedMessage, start: AttemptStart) -> Vec<Finished> {
    cx.retry_policies.refresh(&cx.db, start.at).await;
    let is_expired = |claimed: &Claimed| start.at >= cx.deadline(message, claimed);
    let (expired, in_time): (Vec<_>, Vec<_>) = message.claimed.iter().cloned().partition(is_expired);
    message.claimed = in_time;
    expired.into_iter().map(|claimed| transition::expired(claimed, start.at)).collect()
}

/// Builds the message once for all of its envelopes.
async fn prepare(cx: &DeliverContext, message: &mut LoadedMessage) -> Result<Prepared, StoredMessageError> {
    let recipients = message.recipients()?;
    let memory = match message.memory.take() {
        Some(memory) => memory,
        // Boxed, because most messages have memory reserved already, but would carry the size of this future.
        None => Box::pin(cx.reserve_memory(message.stored.row.size, &message.claimed)).await,
    };
    let draft = message.stored.draft(&cx.db, cx.links.as_ref(), &*cx.renderer).await?;
    // Boxed, because few messages pass a received message on.
    let inbound = match message.stored.row.inbound_route_id {
        Some(_) => Box::pin(cx.inbound_relays.route_of(&message.stored.row)).await?,
        None => None,
    };
    let envelopes = envelopes(cx, message, &draft, (recipients, inbound), cx.clock.now());
    let mime = cx.signing.build(&message.stored, &draft).await?;
    Ok(Prepared { mime, envelopes, _memory: memory })
}

/// Sends a message to one envelope and completes its recipients.
async fn send(cx: &DeliverContext, message: &LoadedMessage, envelope: Envelope, mime: &[u8], start: AttemptStart) {
    let Envelope { next_hop, smtp: envelope, claimed } = envelope;
    // Simulated attempts have no conversation.
    let traceable = claimed.first().filter(|_| matches!(next_hop, NextHop::Smtp(_))).map(|row| row.lane_id);
    let is_traced = cx.traced_lanes.take_turn(traceable).await;
    let guard = LeaseCheck::new(cx, message, &claimed, start, is_traced);
    let is_alone = envelope.to.len() == 1;
    let id = MessageId(message.stored.row.id);
    let trace = traces::attempt(id.0, || id.to_string());
    let sending = async {
        let outcomes = match next_hop {
            NextHop::Smtp(route) => {
                cx.sender.send_if(&route, &envelope, mime, &cx.send_options(&claimed, &guard)).await?
            }
            // Boxed, so that it does not enlarge the future of other messages.
            NextHop::Simulator => Box::pin(simulate(cx, &envelope, &claimed, mime, &guard)).await?,
        };
        if trace.is_recorded() {
            describe(&trace, message, &claimed, &outcomes);
        }
        let end = AttemptEnd::now(cx);
        cx.retry_policies.refresh(&cx.db, end.at).await;
        let finish = |(claimed, outcome): (&Claimed, Outcome)| Finished {
            is_alone,
            conversation: guard.conversation(&outcome),
            ..cx.transition(message, claimed.clone(), outcome, start, end)
        };
        let unrecorded =
            claimed.iter().zip(outcomes).enumerate().filter(|(position, _)| !guard.has_recorded(*position));
        Ok(unrecorded.map(|(_, one)| finish(one)).collect())
    };
    let sending = pin!(sending);
    match AssertUnwindSafe(trace.run(sending)).catch_unwind().await {
        Ok(Ok(finished)) => cx.recorder.record(finished),
        Ok(Err(NotAttempted(why))) => {
            trace.fail("not_attempted");
            tracing::debug!(event = "message_not_begun", why = why.text, "message was not attempted; releasing it");
            if let Some(lane) = traceable.filter(|_| is_traced) {
                Box::pin(cx.traced_lanes.return_turn(lane)).await;
            }
            release_later(cx, guard.unrecorded()).await;
        }
        Err(_) => {
            // Once the message body may have been sent, it is unknown whether the message arrived.
            let (verdict, stage) = if guard.may_have_sent_body() {
                (Verdict::Uncertain, Stage::FinalDot)
            } else {
                (Verdict::Temporary, Stage::Data)
            };
            let outcome = Outcome { verdict, stage, ..local_failure(PANICKED_REPLY, start) };
            complete_all(cx, message, guard.unrecorded(), &outcome, start).await;
        }
    }
}

/// Sets the attributes of an attempt's span: no address of a person, and no text of a reply.
fn describe(trace: &Scope, message: &LoadedMessage, claimed: &[Claimed], outcomes: &[Outcome]) {
    trace.set("postrider.stream", message.stored.row.stream.clone());
    trace.set("postrider.recipients", i64::try_from(outcomes.len()).unwrap_or(i64::MAX));
    if let Some(claimed) = claimed.first() {
        trace.set("postrider.attempt", i64::from(claimed.attempts) + 1);
    }
    // Recipients of one transaction have the same server, and nearly always the same outcome.
    let failed = outcomes.iter().find(|outcome| outcome.verdict != Verdict::Accepted);
    let Some(outcome) = failed.or(outcomes.first()) else { return };
    let verdict = match outcome.verdict {
        Verdict::Accepted => "accepted",
        Verdict::Temporary => "temporary",
        Verdict::Permanent => "permanent",
        Verdict::Uncertain => "uncertain",
    };
    trace.set("postrider.verdict", verdict);
    if let Some(host) = &outcome.peer.mx {
        trace.set("server.address", host.clone());
    }
    if let Some(ip) = outcome.peer.ip {
        trace.set("network.peer.address", ip.to_string());
    }
    if let Some(code) = outcome.reply.code {
        trace.set("smtp.response.code", i64::from(code));
    }
    if failed.is_some() {
        trace.fail(outcome.reply.code.map_or_else(|| "no_reply".to_owned(), |code| code.to_string()));
    }
}

/// Plays the attempt at the recipient of an envelope for the simulator.
async fn simulate(
    cx: &DeliverContext,
    envelope: &smtp::Envelope,
    claimed: &[Claimed],
    mime: &[u8],
    guard: &LeaseCheck<'_>,
) -> Result<Vec<Outcome>, NotAttempted> {
    let (Some(claimed), Some(to)) = (claimed.first(), envelope.to.first()) else { return Ok(Vec::new()) };
    let attempt = simulator::Attempt {
        tenant: claimed.tenant_id,
        message: claimed.message_id,
        recipient: claimed.recipient_id,
        to,
        return_path: envelope.from.as_ref(),
        mime,
        number: u32::try_from(claimed.attempts).unwrap_or(0) + 1,
        first_due_at: claimed.first_due_at,
    };
    Ok(vec![cx.simulator.send(&attempt, guard).await?])
}

/// Releases recipients after a pause, unless the worker is stopping: without the pause they would be claimed again at
/// once, and fail again.
async fn release_later(cx: &DeliverContext, claimed: Vec<Claimed>) {
    cx.closing.run_until_cancelled(tokio::time::sleep(RETRY_PAUSE)).await;
    cx.leases.release(claimed).await;
}

/// Holds a message whose attachment is missing in the object store; the cleanup releases it when the object is back.
/// Reschedules it while the store is not available.
async fn wait_for_object(cx: &DeliverContext, message: LoadedMessage, error: ObjectError) {
    match objects::hold_reason(&error) {
        Some(reason) => cx.leases.hold(message.claimed, &reason).await,
        None => reschedule(cx, message, &error.into(), OBJECT_DELAY).await,
    }
}

/// Reschedules a message that cannot be prepared until a cause such as the configuration is fixed. No attempt is
/// counted. Its deadline does not change.
async fn reschedule(cx: &DeliverContext, message: LoadedMessage, error: &StoredMessageError, delay: TimeDelta) {
    let now = cx.clock.now();
    log_preparation_failure(cx, &message, error);
    let end = message.claimed.iter().map(|claimed| cx.deadline(&message, claimed)).min();
    let until = end.map_or(now + delay, |end| end.min(now + delay));
    let why = error.to_string();
    let to = Rescheduled { until: Some(until), problem: Some((&why, now)) };
    cx.leases.reschedule(message.claimed, to).await;
}

/// Logs the failure at most once a minute for each domain or stream, and not for each message.
fn log_preparation_failure(cx: &DeliverContext, message: &LoadedMessage, error: &StoredMessageError) {
    let what = match error {
        StoredMessageError::NotSigned(domain, _) => format!("domain {domain}"),
        StoredMessageError::Objects(_) => "object store".to_owned(),
        _ => format!("stream {}", message.stored.row.stream),
    };
    if cx.preparation_failures.allows(&what, cx.clock.now()) {
        tracing::error!(
            event = "preparation_failed",
            %error,
            what,
            "cannot prepare messages; rescheduling them until this is fixed"
        );
    }
}

/// Completes a message of which nothing was sent because of a local failure. The attempt counts, so that it is not
/// repeated at once.
async fn fail(cx: &DeliverContext, message: &LoadedMessage, reason: &str, start: AttemptStart) {
    let id = MessageId(message.stored.row.id);
    tracing::error!(
        event = "message_not_prepared",
        message_id = %id,
        reason,
        "cannot prepare a message; counting a temporary failure and trying again later"
    );
    complete_all(cx, message, message.claimed.clone(), &local_failure(reason, start), start).await;
}

/// Completes recipients with the same outcome. If judging them panics they are held, so that they do not stay in
/// flight.
async fn complete_all(
    cx: &DeliverContext,
    message: &LoadedMessage,
    claimed: Vec<Claimed>,
    outcome: &Outcome,
    start: AttemptStart,
) {
    let end = AttemptEnd::now(cx);
    let finish = |claimed: &Claimed| cx.transition(message, claimed.clone(), outcome.clone(), start, end);
    let finished = AssertUnwindSafe(|| claimed.iter().map(finish).collect());
    match std::panic::catch_unwind(finished) {
        Ok(finished) => cx.recorder.record(finished),
        Err(_) => cx.leases.hold(claimed, NOT_JUDGED_REASON).await,
    }
}

/// Returns the outcome of a failure that no server is responsible for.
fn local_failure(reason: &str, start: AttemptStart) -> Outcome {
    Outcome {
        verdict: Verdict::Temporary,
        reply: Reply::local_error(reason),
        peer: Peer::default(),
        duration: start.clock.elapsed(),
        // This stage implies nothing about the destination.
        stage: Stage::Data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delivery_future_is_small() {
        fn size<F>(_: fn(Arc<DeliverContext>, LoadedMessage) -> F) -> usize {
            size_of::<F>()
        }
        // The future is moved for every message; an unboxed database call in it would add 30 KB.
        assert!(size(run) <= 15 << 10, "{} bytes", size(run));
    }
}
