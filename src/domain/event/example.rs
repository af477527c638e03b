//! An example of each event type for the documentation, built from the type of real events.

use chrono::{DateTime, TimeDelta};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{BounceView, Event, EventData, EventSender, EventType};
use crate::domain::explain::SmtpReply;
use crate::domain::id::{EndpointId, KeyId, MessageId, RecipientId};
use crate::domain::message::message_id;

/// The time of the examples: 2026-11-24T09:00:00Z.
const AT: i64 = 1_795_510_800;
const MESSAGE: MessageId = MessageId(Uuid::from_u128(0x019a_8f3c_2b7d_7c4e_8a1b_2c3d_4e5f_6a7a));
const RECIPIENT: RecipientId = RecipientId(Uuid::from_u128(0x019a_8f3c_2b7d_7c4e_8a1b_2c3d_4e5f_6a7b));
const ENDPOINT: EndpointId = EndpointId(Uuid::from_u128(0x019a_8f3c_2b7d_7c4e_8a1b_2c3d_4e5f_6a7c));
const KEY: KeyId = KeyId(Uuid::from_u128(0x019a_8f3c_2b7d_7c4e_8a1b_2c3d_4e5f_6a7d));

impl EventType {
    /// Returns an example event of this type.
    pub fn example(self) -> Event {
        let timestamp = DateTime::from_timestamp(AT, 0).unwrap_or_default();
        Event { seq: 123, kind: self.to_string(), timestamp, data: self.data() }
    }

    fn data(self) -> EventData {
        let next = DateTime::from_timestamp(AT, 0).map(|at| at + TimeDelta::minutes(5));
        let base = if self.has_recipient() { recipient() } else { message() };
        match self {
            Self::Accepted => EventData { recipients: Some(recipients()), ..base },
            Self::Scheduled => EventData { recipients: Some(recipients()), next_attempt_at: next, ..base },
            Self::Canceled | Self::Expired | Self::Unsubscribed => base,
            Self::Deferred => attempt(EventData { next_attempt_at: next, ..base }, 451, "4.7.1", "Greylisted"),
            Self::Relayed => attempt(base, 250, "2.0.0", "queued as 8A1B2C3D"),
            Self::Delivered => attempt(base, 250, "2.1.5", "Accepted"),
            Self::Bounced => {
                let bounce =
                    BounceView::from_row(Some("hard".into()), Some("unknown_user".into()), Some("smtp".into()));
                attempt(EventData { bounce, ..base }, 550, "5.1.1", "No such user")
            }
            Self::Suppressed => with_reply(base, None, None, "The address is on the suppression list (hard_bounce)."),
            Self::Uncertain => {
                let uncertain = EventData { is_final: Some(false), next_attempt_at: next, ..base };
                let uncertain = attempt(uncertain, 250, "2.0.0", "");
                with_reply(uncertain, None, None, "The connection dropped after the final dot.")
            }
            Self::Redacted => {
                let from = base.from.map(|from| EventSender { name: None, ..from });
                EventData { from, subject: Some(String::new()), tags: json!([]), metadata: json!({}), ..base }
            }
            Self::Rejected => {
                let sent = EventData { internet_message_id: None, key_id: None, ..base };
                with_reply(sent, None, None, "/template/id: there is no such template")
            }
            Self::Received => EventData { received: Some(received()), ..EventData::empty() },
            Self::Complained => EventData { vouched: Some(true), ..base },
            Self::WebhookTest => EventData { endpoint_id: Some(ENDPOINT), ..EventData::empty() },
            Self::WebhookDisabled => with_reply(
                EventData { endpoint_id: Some(ENDPOINT), ..EventData::empty() },
                None,
                None,
                "The endpoint returned 410 Gone.",
            ),
            Self::KeyQuotaWarning => key("40000 of the 50000 recipients of 2026-11-24 (UTC) are used."),
            Self::KeyQuotaReached => key("All 50000 recipients of 2026-11-24 (UTC) are used."),
            Self::TenantQuotaWarning => tenant("800000 of the 1000000 recipients of 2026-11-24 (UTC) are used."),
            Self::FeedRestored => tenant(
                "The database was restored to an earlier state. Events after number 122 that were read before the restore do not \
                 exist any more, and their numbers are not used again.",
            ),
            Self::TenantQuotaReached => tenant("All 1000000 recipients of 2026-11-24 (UTC) are used."),
        }
    }
}

fn key(text: &str) -> EventData {
    with_reply(EventData { key_id: Some(KEY), ..EventData::empty() }, None, None, text)
}

fn tenant(text: &str) -> EventData {
    with_reply(EventData::empty(), None, None, text)
}

fn message() -> EventData {
    EventData {
        key_id: Some(KEY),
        message_id: Some(MESSAGE),
        internet_message_id: Some(message_id::derived(MESSAGE, "acme.test")),
        from: Some(EventSender { email: "billing@acme.test".into(), name: Some("Acme Billing".into()) }),
        subject: Some("Your invoice".into()),
        stream: Some("transactional".into()),
        tags: json!([{"name": "kind", "value": "invoice"}]),
        metadata: json!({"order": "42"}),
        ..EventData::empty()
    }
}

fn recipient() -> EventData {
    EventData { recipient_id: Some(RECIPIENT), recipient: Some("ann@example.test".into()), ..message() }
}

fn recipients() -> Value {
    json!([{"id": RECIPIENT, "address": "ann@example.test", "kind": "to"}])
}

fn received() -> Value {
    json!({
        "id": "rcv_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7e", "route_id": "irt_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7f",
        "from": "ann@example.test", "to": ["support@reply.acme.test"], "subject": "Re: Your invoice",
        "internet_message_id": "<CAF-42@mail.example.test>", "answers": MESSAGE, "is_auto_reply": false,
        "attachments": 1, "size": 2048,
    })
}

fn with_reply(data: EventData, code: Option<i16>, enhanced: Option<&str>, text: &str) -> EventData {
    EventData { response: SmtpReply::from_row(code, enhanced.map(str::to_owned), Some(text.to_owned())), ..data }
}

fn attempt(data: EventData, code: i16, enhanced: &str, text: &str) -> EventData {
    let data = EventData {
        attempt: Some(1),
        mx: Some("mx.example.test".into()),
        ip: Some("203.0.113.9".into()),
        tls: Some("TLSv1_3 TLS13_AES_256_GCM_SHA384".into()),
        duration_ms: Some(312),
        ..data
    };
    with_reply(data, Some(code), Some(enhanced), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_has_the_required_fields() {
        for kind in EventType::ALL {
            let event = serde_json::to_value(kind.example()).unwrap();
            assert_eq!(event["type"], kind.as_str());
            assert_eq!(event["timestamp"], "2026-11-24T09:00:00Z");
            for field in kind.required_fields() {
                assert!(!event["data"][field].is_null(), "{kind} {field}");
            }
        }
    }
}
