//! What is wrong now, and how to fix it.

use chrono::{DateTime, Utc};
use serde::Deserialize;

use crate::domain::installation::restore::Hold;
use crate::ui::call::{segment, with_query};
use crate::ui::format::number;
use crate::ui::session::Suspended;

/// Something that stops or delays messages or events.
pub(super) struct Problem {
    /// The colour: `bad` or `warn`.
    pub tone: &'static str,
    pub title: String,
    pub detail: String,
    pub since: Option<DateTime<Utc>>,
    /// How to fix it, and the page to do it on.
    pub fix: &'static str,
    pub path: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Lane {
    stream: String,
    domain: String,
    state: String,
    reason: String,
    waiting: Count,
    paused: Option<Paused>,
    blocked: Option<Since>,
    unprepared: Option<Unprepared>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Paused {
    what: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Count {
    number: i64,
    is_more: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct Since {
    since: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Unprepared {
    since: DateTime<Utc>,
    error: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Webhook {
    id: String,
    url: String,
    state: String,
    last_error: Option<String>,
    failing_since: Option<DateTime<Utc>>,
    disabled_at: Option<DateTime<Utc>>,
    disabled_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Domain {
    name: String,
    status: String,
    verified_at: Option<DateTime<Utc>>,
}

/// Returns the problem that the restore guard holds.
pub(super) fn restore_problem(hold: &Hold) -> Problem {
    Problem {
        tone: "bad",
        title: "Nothing is sent: the database may have been restored or copied".into(),
        detail: format!("{} Messages are accepted and wait; webhooks wait too.", hold.detail),
        since: Some(hold.since),
        fix: "An operator decides with `postrider release`.",
        path: "/ui/lanes".into(),
    }
}

/// Returns the problem that the tenant of the visitor's key is suspended.
pub(super) fn suspension_problem(suspended: &Suspended) -> Problem {
    let reason = suspended.reason.as_ref().map_or_else(String::new, |reason| format!("Reason: {reason} "));
    Problem {
        tone: "bad",
        title: "This tenant is suspended".into(),
        detail: format!("{reason}Nothing is accepted or sent. Everything waits."),
        since: Some(suspended.at),
        fix: "An operator can resume it.",
        path: "/ui/lanes".into(),
    }
}

pub(super) fn lane_problems(lane: &Lane) -> impl Iterator<Item = Problem> {
    let path = with_query("/ui/lanes", &[("q", lane.domain.as_str())]);
    let waiting = format!("{}{}", number(lane.waiting.number), if lane.waiting.is_more { "+" } else { "" });
    let recipients = if waiting == "1" { "recipient waits" } else { "recipients wait" };
    let name = if lane.domain == "*" { "the relay" } else { &lane.domain };
    let stopped = match lane.state.as_str() {
        "blocked" => {
            Some(("bad", format!("Destination {name} is unreachable"), "Fix the destination, then reset the lane."))
        }
        // The suspension of the whole tenant is one problem, not one per lane.
        "paused" if lane.paused.as_ref().is_some_and(|paused| paused.what == "tenant") => None,
        "paused" => Some((
            "warn",
            format!("Lane {} to {name} is paused", lane.stream),
            "Resume it when the reason no longer applies.",
        )),
        _ => None,
    };
    let stopped = stopped.map(|(tone, title, fix)| Problem {
        tone,
        title,
        detail: format!("{} {waiting} {recipients}.", lane.reason),
        since: lane.blocked.as_ref().map(|blocked| blocked.since),
        fix,
        path: path.clone(),
    });
    let unprepared = lane.unprepared.as_ref().map(|unprepared| Problem {
        tone: "bad",
        title: format!("Messages of stream {} cannot be prepared for sending", lane.stream),
        detail: unprepared.error.clone(),
        since: Some(unprepared.since),
        fix: "Fix the configuration that the error names, then reset the lane.",
        path,
    });
    stopped.into_iter().chain(unprepared)
}

/// Returns the problem that messages are held, if any are.
pub(super) fn held_problem(count: usize, has_more: bool) -> Option<Problem> {
    let count_text = number(i64::try_from(count).unwrap_or(i64::MAX));
    (count > 0).then(|| Problem {
        tone: "bad",
        title: match (count, has_more) {
            (1, false) => "1 message is held".into(),
            (_, false) => format!("{count_text} messages are held"),
            (_, true) => format!("More than {count_text} messages are held"),
        },
        detail: "Nothing is sent for them until an operator decides.".into(),
        since: None,
        fix: "Retry or cancel them.",
        path: "/ui/messages?q=held%3Atrue".into(),
    })
}

pub(super) fn webhook_problem(webhook: &Webhook) -> Option<Problem> {
    let (title, detail, since, fix) = match webhook.state.as_str() {
        "failing" => (
            format!("Deliveries to {} fail", webhook.url),
            webhook.last_error.clone(),
            webhook.failing_since,
            "Fix the endpoint; deliveries are retried for five days.",
        ),
        "disabled" => (
            format!("Webhook {} is disabled", webhook.url),
            webhook.disabled_reason.clone(),
            webhook.disabled_at,
            "Fix the endpoint, then enable it.",
        ),
        _ => return None,
    };
    let path = format!("/ui/webhooks/{}", segment(&webhook.id));
    Some(Problem { tone: "bad", title, detail: detail.unwrap_or_default(), since, fix, path })
}

pub(super) fn domain_problem(domain: &Domain) -> Option<Problem> {
    let (tone, detail) = match domain.status.as_str() {
        "pending" => ("warn", "Its DNS records have not been found yet, so receivers do not trust its signatures."),
        "failing" => ("bad", "Its DNS records have disappeared. After 72 hours it counts as unverified."),
        "unverified" => ("bad", "Its DNS records are missing."),
        _ => return None,
    };
    Some(Problem {
        tone,
        title: format!("Domain {} is {}", domain.name, domain.status),
        detail: detail.into(),
        since: domain.verified_at,
        fix: "Publish the records, then verify the domain.",
        path: format!("/ui/domains/{}", segment(&domain.name)),
    })
}
