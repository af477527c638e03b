//! One mail: build it, send it, hand over what came of it. Whatever goes wrong here concerns this mail alone.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::join_all;

use super::budget::Held;
use super::last_word::LastWord;
use super::mail::Mail;
use super::rooms::URGENT;
use super::{Parts, give_back};
use crate::db::drafts::DraftError;
use crate::db::queue::{Claimed, Finished};
use crate::domain::address::Address;
use crate::domain::delivery::{Status, Transition};
use crate::domain::id::MessageId;
use crate::domain::outcome::{Outcome, Peer, Reply, Stage, Verdict};
use crate::domain::retry::{Attempt, Policy};
use crate::smtp::{Envelope, NotBegun, Route};

/// A mail that is ready to go.
struct Prepared<'a> {
    from: Address,
    mime: Vec<u8>,
    recipients: Vec<(Claimed, Address)>,
    /// Held until the mail has gone.
    _memory: Option<Held<'a>>,
}

/// When and how often this attempt is.
#[derive(Clone, Copy)]
struct Start {
    at: DateTime<Utc>,
    clock: Instant,
}

/// Delivers a mail and completes each of its claimed recipients, whatever happens.
pub(super) async fn run(parts: Arc<Parts>, mail: Mail) {
    if parts.closing.is_cancelled() {
        return give_back::release(&parts.db, &parts.hands, mail.claimed).await;
    }
    let start = Start { at: parts.clock.now(), clock: Instant::now() };
    parts.policies.refresh(&parts.db, start.at).await;
    let (late, in_time): (Vec<Claimed>, Vec<Claimed>) =
        mail.claimed.iter().cloned().partition(|claimed| start.at >= deadline(&parts, &mail, claimed));
    if !late.is_empty() {
        parts.completer.complete(late.into_iter().map(|claimed| expired(claimed, start.at)).collect());
    }
    if in_time.is_empty() {
        return;
    }
    let mut mail = Mail { message: mail.message, claimed: in_time };
    let preparing = parts.closing.run_until_cancelled(prepare(&parts, &mut mail));
    let prepared = match AssertUnwindSafe(preparing).catch_unwind().await {
        Ok(Some(Ok(prepared))) => prepared,
        Ok(None) => return give_back::release(&parts.db, &parts.hands, mail.claimed).await,
        // The database's trouble is not the recipient's attempt.
        Ok(Some(Err(DraftError::Db(error)))) if error.is_passing() => {
            tracing::warn!(%error, "could not load a mail; giving it back");
            tokio::time::sleep(give_back::PAUSE).await;
            return give_back::release(&parts.db, &parts.hands, mail.claimed).await;
        }
        // What the database said is for our log; the recipient's history gets our words.
        Ok(Some(Err(DraftError::Db(error)))) => {
            tracing::error!(%error, "a mail could not be loaded");
            return fail(&parts, &mail, UNREADABLE, start);
        }
        Ok(Some(Err(error))) => return fail(&parts, &mail, &error.to_string(), start),
        Err(_) => return fail(&parts, &mail, PANICKED, start),
    };
    let Prepared { from, mime, recipients, _memory } = prepared;
    // Each route completes its own recipients: a slow server must not keep another's answer from being recorded.
    join_all(routes(&parts, &mail, &from, recipients).into_iter().map(|(route, recipients)| {
        let (claimed, to): (Vec<Claimed>, Vec<Address>) = recipients.into_iter().unzip();
        let envelope = Envelope { from: Some(from.clone()), to };
        along(&parts, &mail, route, envelope, claimed, &mime, start)
    }))
    .await;
}

const UNREADABLE: &str = "postrider could not read this mail from its database; see its log";
const PANICKED: &str = "postrider failed while it worked on this mail; see its log";

/// Builds the mail once for all its routes.
async fn prepare<'a>(parts: &'a Parts, mail: &mut Mail) -> Result<Prepared<'a>, DraftError> {
    let recipients = mail.recipients()?;
    let memory = if mail.message.is_large() { Some(memory(parts, mail).await) } else { None };
    let draft = mail.message.draft(&parts.db).await?;
    Ok(Prepared { from: draft.from.address.clone(), mime: crate::mail::build(&draft), recipients, _memory: memory })
}

/// Sends a mail along one route and completes those recipients.
async fn along(
    parts: &Arc<Parts>,
    mail: &Mail,
    route: Route,
    envelope: Envelope,
    claimed: Vec<Claimed>,
    mime: &[u8],
    start: Start,
) {
    let watch = LastWord { parts, mail, claimed: &claimed };
    let terms = parts.terms(&claimed, &watch);
    let sent = AssertUnwindSafe(parts.sender.send_if(&route, &envelope, mime, &terms)).catch_unwind().await;
    let outcomes = match sent {
        Ok(Ok(outcomes)) => outcomes,
        Ok(Err(NotBegun(why))) => {
            tracing::debug!(why = why.text, "a mail was not begun; giving it back");
            return give_back::release(&parts.db, &parts.hands, claimed).await;
        }
        Err(_) => vec![ours(PANICKED, start); claimed.len()],
    };
    parts.policies.refresh(&parts.db, parts.clock.now()).await;
    let finished =
        claimed.into_iter().zip(outcomes).map(|(claimed, outcome)| judge(parts, mail, claimed, outcome, start.at));
    parts.completer.complete(finished.collect());
}

/// While it is built a large mail is in memory as attachments and as MIME, which is a third longer.
async fn memory<'a>(parts: &'a Parts, mail: &Mail) -> Held<'a> {
    let octets = u64::try_from(mail.message.row.size).unwrap_or(0).saturating_mul(5) / 2;
    let lane = mail.claimed.first().and_then(|row| parts.hands.lane(row.lane_id));
    parts.budget.hold(octets, lane.is_some_and(|lane| lane.priority <= URGENT)).await
}

/// By today's table, whatever route the rows were put in a lane for: through the relays of a route lane by lane, since each
/// has limits of its own, or domain by domain.
fn routes(
    parts: &Parts,
    mail: &Mail,
    from: &Address,
    recipients: Vec<(Claimed, Address)>,
) -> Vec<(Route, Vec<(Claimed, Address)>)> {
    let route = parts.settings.routes.of(&mail.message.row.stream, from.domain());
    if !route.is_mx() {
        let mut by_lane = BTreeMap::<i64, Vec<(Claimed, Address)>>::new();
        for (claimed, address) in recipients {
            by_lane.entry(claimed.lane_id).or_default().push((claimed, address));
        }
        return by_lane.into_values().map(|recipients| (Route::Relay(route.clone()), recipients)).collect();
    }
    let mut by_domain = BTreeMap::<String, Vec<(Claimed, Address)>>::new();
    for (claimed, address) in recipients {
        by_domain.entry(address.domain().to_owned()).or_default().push((claimed, address));
    }
    by_domain.into_iter().map(|(domain, recipients)| (Route::Mx { domain }, recipients)).collect()
}

/// Nothing was handed over, and the reason is ours: the attempt counts, so that it is not repeated at once.
fn fail(parts: &Parts, mail: &Mail, reason: &str, start: Start) {
    let message = MessageId(mail.message.row.id);
    tracing::error!(%message, reason, "a mail could not be prepared");
    let judged = |claimed: &Claimed| judge(parts, mail, claimed.clone(), ours(reason, start), start.at);
    parts.completer.complete(mail.claimed.iter().map(judged).collect());
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

fn judge(parts: &Parts, mail: &Mail, claimed: Claimed, outcome: Outcome, started_at: DateTime<Utc>) -> Finished {
    let attempt = Attempt {
        number: u32::try_from(claimed.attempts).unwrap_or(0) + 1,
        deadline: deadline(parts, mail, &claimed),
        on_uncertain: mail.on_uncertain(),
    };
    let transition = outcome.next(&attempt, &policy(parts, mail), parts.clock.now(), rand::random());
    tracing::debug!(
        message = %MessageId(claimed.message_id),
        attempt = attempt.number,
        status = %transition.status(),
        reply = outcome.reply.text,
        "attempt over"
    );
    Finished { claimed, outcome: Some(outcome), transition, started_at }
}

/// After this no attempt begins.
pub(super) fn deadline(parts: &Parts, mail: &Mail, claimed: &Claimed) -> DateTime<Utc> {
    policy(parts, mail).deadline(claimed.first_due_at, mail.message.row.expires_at)
}

fn policy(parts: &Parts, mail: &Mail) -> Arc<Policy> {
    parts.policies.of(mail.message.row.tenant_id, &mail.message.row.stream)
}

/// Completes recipients whose time has run out where they waited.
pub(super) fn expire(parts: &Parts, claimed: Vec<Claimed>) {
    let now = parts.clock.now();
    parts.completer.complete(claimed.into_iter().map(|claimed| expired(claimed, now)).collect());
}

fn expired(claimed: Claimed, started_at: DateTime<Utc>) -> Finished {
    Finished { claimed, outcome: None, transition: Transition::End(Status::Expired), started_at }
}
