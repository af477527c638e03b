//! Explains a recipient that has reached an end state.

use super::phrases::{self, attempts, server_reply, time};
use super::{Blocker, Explanation, Kind, Recipient, Remedy};
use crate::domain::delivery::Status;
use crate::domain::outcome::OnUncertain;
use crate::domain::suppression::Reason;

pub(super) fn explain(recipient: &Recipient) -> Explanation {
    let unblock = match (recipient.status, recipient.on_uncertain) {
        (Status::Uncertain, OnUncertain::Hold) => {
            let call = format!("POST /v1/messages/{}/retry", recipient.message);
            vec![Remedy::call("If it did not arrive, send it again; a second copy is possible.", call)]
        }
        (Status::Bounced, _) if recipient.suppression.is_some() => unsuppress(recipient),
        (Status::Bounced, _) => vec![Remedy::advice("Fix what the reply names, then send a new message.")],
        (Status::Expired | Status::Canceled | Status::Uncertain, _) => {
            vec![Remedy::advice("Send a new message if it is still wanted.")]
        }
        (Status::Suppressed, _) => unsuppress(recipient),
        _ => Vec::new(),
    };
    let blocker = Blocker {
        kind: Kind::Ended,
        since: recipient.finished_at,
        until: None,
        rule: recipient.suppression.as_ref().map(|entry| {
            let stream =
                entry.stream.as_ref().map_or_else(|| "of all streams".into(), |name| format!("of stream {name}"));
            format!("suppression {stream}: {}", entry.reason.as_str())
        }),
        reply: recipient.reply.clone(),
        next_attempt_at: None,
    };
    Explanation { summary: summary(recipient), blocker, estimate: None, unblock }
}

/// Returns how to allow new messages to a suppressed address.
fn unsuppress(recipient: &Recipient) -> Vec<Remedy> {
    let resend = Remedy::advice("Send a new message if it is still wanted.");
    let Some(entry) = &recipient.suppression else { return vec![resend] };
    let action = match entry.reason {
        Reason::HardBounce => "If the mailbox exists now, delete the suppression, and send a new message.",
        Reason::Complaint | Reason::Unsubscribe => {
            "If the address's owner has asked for messages again, delete the suppression, and send a new message."
        }
        Reason::Manual => "Delete the suppression, and send a new message.",
    };
    vec![Remedy::call(action, entry.removal())]
}

/// Describes the suppression, and whether it still exists.
fn suppressed(recipient: &Recipient, at: &str) -> String {
    let reason = recipient.reply.as_ref().map_or("the address is on the suppression list", |reply| reply.text.as_str());
    let entry = match &recipient.suppression {
        Some(entry) => match (&entry.message_id, &entry.note) {
            (_, Some(note)) => format!(" Its note: {note}."),
            (Some(message), None) => format!(" It was caused by message {message}."),
            (None, None) => String::new(),
        },
        None => " The entry is no longer on the list.".into(),
    };
    if recipient.attempts == 0 {
        return format!("It was not sent{at}: {reason}.{entry}");
    }
    let tries = attempts(recipient.attempts);
    format!("It was not sent again{at}, after {tries}; an earlier one may have arrived: {reason}.{entry}")
}

fn summary(recipient: &Recipient) -> String {
    let at = recipient.finished_at.map_or_else(String::new, |at| format!(" at {}", time(at)));
    let tries = attempts(recipient.attempts);
    let last = server_reply(recipient.reply.as_ref(), recipient.mx.as_deref());
    let tls = recipient.tls.as_deref().map_or_else(|| "without TLS".into(), |tls| format!("over {tls}"));
    let quoted = recipient.reply.as_ref().map_or_else(|| "no details given".into(), phrases::quoted);
    let classification =
        recipient.bounce.as_ref().map_or_else(String::new, |bounce| format!(" ({}/{})", bounce.kind, bounce.category));
    let summary = match recipient.status {
        Status::Bounced if recipient.reported_at.is_some() => {
            format!(
                "A delivery report received{at} says that it was refused permanently{classification} by a server behind {}, after {tries}: {quoted}.",
                recipient.mx.as_deref().unwrap_or("the server that accepted it")
            )
        }
        Status::Delivered if recipient.reported_at.is_some() => {
            format!("A delivery report received{at} says that it was delivered, after {tries}: {quoted}.")
        }
        Status::Relayed => {
            format!(
                "The relay accepted the message{at}, after {tries}, {tls}: {last}. Further delivery is up to the relay."
            )
        }
        Status::Delivered => {
            format!("The recipient's mail server accepted the message{at}, after {tries}, {tls}: {last}.")
        }
        Status::Bounced => format!("It was refused permanently{at}{classification}, after {tries}: {last}."),
        Status::Expired if recipient.attempts == 0 => {
            format!("It expired{at}: its time ran out before an attempt could be made. This is not a bounce.")
        }
        Status::Expired => {
            format!("It expired{at}, after {tries}: its time ran out. This is not a bounce. The last reply: {last}.")
        }
        Status::Suppressed => suppressed(recipient, &at),
        Status::Canceled => format!("It was canceled{at}, after {tries}."),
        Status::Uncertain => format!(
            "The connection dropped{at} after the message body and before the server's reply: it may have arrived. Because \
             on_uncertain is `{}`, it is not retried automatically.",
            recipient.on_uncertain.as_str()
        ),
        Status::Sending | Status::Queued | Status::Deferred | Status::Scheduled => String::new(),
    };
    let complaint = recipient.complained_at.map(|at| format!("The recipient reported it as spam at {}.", time(at)));
    let entry = recipient.suppression.as_ref().filter(|_| recipient.status == Status::Bounced).map(|entry| {
        let stream = entry.stream.as_ref().map_or_else(|| "all streams".into(), |name| format!("stream `{name}`"));
        format!(
            "The address has been suppressed for {stream} since {} ({}): new messages to it are not sent.",
            time(entry.created_at),
            entry.reason.as_str()
        )
    });
    [Some(summary), complaint, entry].into_iter().flatten().collect::<Vec<_>>().join(" ")
}
