//! Events as the payloads of Resend's webhooks, for applications that have a handler for them.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Map, Value, json};

use super::{Event, EventData, EventType};
use crate::domain::bounce::{BounceType, Category};
use crate::domain::suppression::{Reason, Suppression};

/// The event types that Resend has too, with Resend's names. "Sent" means there that the API has accepted the message.
/// Resend has no event for a `relayed` or `uncertain` recipient: the application can do nothing about it.
pub const TYPES: [(EventType, &str); 9] = [
    (EventType::Accepted, "email.sent"),
    (EventType::Scheduled, "email.scheduled"),
    (EventType::Deferred, "email.delivery_delayed"),
    (EventType::Delivered, "email.delivered"),
    (EventType::Bounced, "email.bounced"),
    (EventType::Expired, "email.failed"),
    (EventType::Suppressed, "email.suppressed"),
    (EventType::Complained, "email.complained"),
    (EventType::WebhookTest, "webhook.test"),
];

/// Maximum length of a server's reply, in characters.
const MAX_REPLY: usize = 2_000;

/// Which events are posted in Resend's form.
#[derive(Debug, Clone, Copy, Default)]
pub struct Mapping {
    /// Whether a `relayed` recipient counts as delivered, for applications that wait for `email.delivered`.
    pub relayed_as_delivered: bool,
}

impl Mapping {
    /// Returns the event type that Resend has for an event of this type; `None` if it has none.
    fn find(self, kind: &str) -> Option<(EventType, &'static str)> {
        let is_relayed = self.relayed_as_delivered && kind == EventType::Relayed.as_str();
        let kind = if is_relayed { EventType::Delivered.as_str() } else { kind };
        TYPES.into_iter().find(|(own, _)| own.as_str() == kind)
    }

    /// Returns Resend's name for events of this type; their own name if Resend has none.
    pub fn name(self, kind: &str) -> &str {
        self.find(kind).map_or(kind, |(_, name)| name)
    }

    /// Returns whether events of this type are posted.
    pub fn has(self, kind: &str) -> bool {
        self.find(kind).is_some()
    }

    /// Returns the types of the events that are posted to an endpoint that has subscribed to `types`; `None` for all.
    pub fn posted(self, types: Option<&[String]>) -> Vec<String> {
        let is_subscribed = |kind: EventType| types.is_none_or(|types| types.iter().any(|one| one == kind.as_str()));
        let is_posted = |kind: &EventType| self.find(kind.as_str()).is_some_and(|(own, _)| is_subscribed(own));
        EventType::ALL.into_iter().filter(is_posted).map(|kind| kind.as_str().to_owned()).collect()
    }

    /// Returns the payload of an event. An event that Resend does not have keeps its own type.
    pub fn payload(self, event: &Event) -> Value {
        json!({
            "type": self.name(&event.kind),
            "created_at": format(event.timestamp),
            "data": data(self.find(&event.kind).map(|(own, _)| own), &event.data),
        })
    }
}

fn format(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

fn data(kind: Option<EventType>, event: &EventData) -> Value {
    let Some(id) = event.message_id else { return json!({}) };
    let mut data = json!({
        "email_id": id.0,
        "message_id": event.internet_message_id,
        "created_at": format(id.accepted_at()),
        "from": event.from.as_ref().map(|from| match &from.name {
            Some(name) => format!("{name} <{}>", from.email),
            None => from.email.clone(),
        }),
        "to": to(event),
        "subject": event.subject,
        "tags": tags(&event.tags),
    });
    let reply = reply(event);
    let (name, details) = match kind {
        Some(EventType::Bounced) => ("bounce", bounce(event, &reply)),
        Some(EventType::Expired) => ("failed", json!({"reason": reply})),
        Some(EventType::Suppressed) => ("suppressed", suppressed(&reply)),
        _ => return data,
    };
    data[name] = details;
    data
}

/// Returns the addresses that an event is about.
fn to(event: &EventData) -> Vec<Value> {
    if let Some(recipient) = &event.recipient {
        return vec![recipient.as_str().into()];
    }
    let all = event.recipients.as_ref().and_then(Value::as_array).into_iter().flatten();
    all.filter(|recipient| recipient["kind"] == "to").map(|recipient| recipient["address"].clone()).collect()
}

/// Returns tags as an object.
fn tags(tags: &Value) -> Map<String, Value> {
    let tags = tags.as_array().into_iter().flatten();
    tags.filter_map(|tag| Some((tag["name"].as_str()?.to_owned(), tag["value"].clone()))).collect()
}

/// Returns the server's reply: code, enhanced code and text, separated by spaces.
fn reply(event: &EventData) -> String {
    let Some(response) = &event.response else { return "The retry window has ended.".into() };
    let code = response.code.map(|code| code.to_string());
    let parts = [code, response.enhanced.clone(), Some(response.text.chars().take(MAX_REPLY).collect())];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn suppressed(reply: &str) -> Value {
    let mut details = json!({"message": reply, "type": "OnAccountSuppressionList"});
    // Resend has no word for the other reasons.
    match Suppression::reason_in(reply) {
        Some(Reason::HardBounce) => details["reason"] = "previous_bounce".into(),
        Some(Reason::Complaint) => details["reason"] = "previous_complaint".into(),
        Some(Reason::Unsubscribe | Reason::Manual) | None => {}
    }
    details
}

fn bounce(event: &EventData, reply: &str) -> Value {
    let (kind, category) =
        event.bounce.as_ref().map_or(("", ""), |bounce| (bounce.kind.as_str(), bounce.category.as_str()));
    let is = |one: Category| category == one.as_str();
    let kind = if kind == BounceType::Hard.as_str() {
        "Permanent"
    } else if kind == BounceType::Undetermined.as_str() || kind.is_empty() {
        "Undetermined"
    } else {
        "Transient"
    };
    let subtype = if is(Category::UnknownUser) || is(Category::BadAddress) || is(Category::BadDomain) {
        "NoEmail"
    } else if is(Category::MailboxFull) {
        "MailboxFull"
    } else if is(Category::Size) {
        "MessageTooLarge"
    } else if is(Category::SpamContent) || is(Category::HarmfulContent) || is(Category::Policy) {
        "ContentRejected"
    } else if kind == "Undetermined" {
        "Undetermined"
    } else {
        "General"
    };
    json!({"message": reply, "type": kind, "subType": subtype, "diagnosticCode": [reply]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{BounceView, EventSender};
    use crate::domain::explain::SmtpReply;
    use crate::domain::id::MessageId;

    fn event(kind: EventType) -> Event {
        let id: MessageId = "msg_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b".parse().unwrap();
        Event {
            seq: 7,
            kind: kind.as_str().into(),
            timestamp: DateTime::UNIX_EPOCH,
            data: EventData {
                message_id: Some(id),
                internet_message_id: Some("<x@acme.test>".into()),
                from: Some(EventSender { email: "a@acme.test".into(), name: Some("Acme".into()) }),
                subject: Some("Hi".into()),
                tags: json!([{"name": "kind", "value": "invoice"}]),
                ..EventData::empty()
            },
        }
    }

    #[test]
    fn payload_has_the_fields_of_resend() {
        let mut accepted = event(EventType::Accepted);
        accepted.data.recipients = Some(json!([
            {"id": "rcp_1", "address": "b@c.test", "kind": "to"}, {"id": "rcp_2", "address": "d@c.test", "kind": "cc"},
        ]));
        let expected = json!({
            "type": "email.sent", "created_at": "1970-01-01T00:00:00.000000Z",
            "data": {
                "email_id": "019a8f3c-2b7d-7c4e-8a1b-2c3d4e5f6a7b", "message_id": "<x@acme.test>",
                "created_at": format(accepted.data.message_id.unwrap().accepted_at()),
                "from": "Acme <a@acme.test>", "to": ["b@c.test"], "subject": "Hi", "tags": {"kind": "invoice"},
            },
        });
        assert_eq!(Mapping::default().payload(&accepted), expected);
    }

    #[test]
    fn bounce_is_classified_in_the_words_of_resend() {
        for (kind, category, expected) in [
            ("hard", "unknown_user", ("Permanent", "NoEmail")),
            ("hard", "mailbox_full", ("Permanent", "MailboxFull")),
            ("block", "spam_content", ("Transient", "ContentRejected")),
            ("soft", "other", ("Transient", "General")),
            ("undetermined", "other", ("Undetermined", "Undetermined")),
        ] {
            let mut bounced = event(EventType::Bounced);
            bounced.data.recipient = Some("b@c.test".into());
            bounced.data.response = SmtpReply::from_row(Some(550), Some("5.1.1".into()), Some("no user".into()));
            bounced.data.bounce = BounceView::from_row(Some(kind.into()), Some(category.into()), Some("smtp".into()));
            let payload = Mapping::default().payload(&bounced);
            let bounce = &payload["data"]["bounce"];
            assert_eq!((&payload["type"], &payload["data"]["to"]), (&json!("email.bounced"), &json!(["b@c.test"])));
            assert_eq!((bounce["type"].as_str().unwrap(), bounce["subType"].as_str().unwrap()), expected, "{category}");
            assert_eq!(bounce["message"], "550 5.1.1 no user");
        }
    }

    #[test]
    fn suppressed_has_the_reason_in_the_words_of_resend() {
        for (reason, expected) in [
            ("hard_bounce", json!("previous_bounce")),
            ("complaint", json!("previous_complaint")),
            ("manual", Value::Null),
        ] {
            let text = format!("b@c.test is on the suppression list since 1970-01-01T00:00:00Z ({reason})");
            let mut suppressed = event(EventType::Suppressed);
            suppressed.data.response = SmtpReply::from_row(None, None, Some(text.clone()));
            let payload = Mapping::default().payload(&suppressed);
            let details = &payload["data"]["suppressed"];
            assert_eq!((&details["message"], &details["reason"]), (&json!(text), &expected), "{reason}");
            assert_eq!(details.as_object().unwrap().contains_key("reason"), !expected.is_null(), "{reason}");
        }
    }

    #[test]
    fn relayed_may_count_as_delivered() {
        let (never, always) = (Mapping::default(), Mapping { relayed_as_delivered: true });
        let relayed = EventType::Relayed.as_str();
        assert!(!never.has(relayed) && always.has(relayed) && !always.has(EventType::Uncertain.as_str()));
        assert_eq!(always.payload(&event(EventType::Relayed))["type"], "email.delivered");
        let delivered = [EventType::Delivered.as_str().to_owned()];
        assert_eq!(never.posted(Some(&delivered)), delivered);
        assert_eq!(always.posted(Some(&delivered)), [relayed, "message.delivered"]);
        assert_eq!(
            always.posted(Some(&[relayed.to_owned()])),
            [""; 0],
            "nobody subscribes to a type that Resend lacks"
        );
        assert_eq!(never.posted(None).len(), TYPES.len());
    }
}
