//! Makes an event fit into a webhook, whose body receivers may limit to 20 kB: what is long in it was written by others,
//! and is cut. The whole of it is in the API.

use serde_json::{Value, json};

use super::Event;

/// The lengths, in characters, to which texts are cut one after the other until all fits.
const LENGTHS: [usize; 4] = [2_000, 500, 100, 20];
/// At the end of what was cut.
const MARK: &str = "…[cut]";

impl Event {
    /// Its JSON in at most `limit` octets, for limits that leave some for what is short.
    pub fn fitted(&self, limit: usize) -> String {
        let whole = json(self);
        if whole.len() <= limit {
            return whole;
        }
        let mut event = self.clone();
        for length in LENGTHS {
            if let Some(said) = &mut event.data.response {
                cut(&mut said.text, length);
            }
            if let Some(subject) = &mut event.data.subject {
                cut(subject, length.max(100));
            }
            if let Value::Object(metadata) = &mut event.data.metadata {
                metadata.values_mut().for_each(|value| {
                    if let Value::String(text) = value {
                        cut(text, length);
                    }
                });
            }
            let text = json(&event);
            if text.len() <= limit {
                return text;
            }
        }
        // The names of the entries alone are too long.
        event.data.metadata = json!({});
        let text = json(&event);
        if text.len() <= limit {
            return text;
        }
        event.data.recipients = None;
        json(&event)
    }
}

fn json(event: &Event) -> String {
    // Every key is a string, and nothing else can fail.
    serde_json::to_string(event).unwrap_or_default()
}

fn cut(text: &mut String, length: usize) {
    if let Some((end, _)) = text.char_indices().nth(length) {
        text.truncate(end);
        text.push_str(MARK);
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::Map;

    use super::super::EventData;
    use super::*;
    use crate::domain::explain::Said;

    fn event(text: &str, metadata: impl Iterator<Item = (String, String)>) -> Event {
        let metadata: Map<String, Value> = metadata.map(|(name, value)| (name, value.into())).collect();
        Event {
            seq: 1,
            kind: "message.bounced".into(),
            timestamp: DateTime::UNIX_EPOCH,
            data: EventData {
                message_id: None,
                recipient_id: None,
                recipient: None,
                recipients: None,
                from: None,
                subject: None,
                stream: None,
                tags: json!([]),
                metadata: metadata.into(),
                attempt: Some(1),
                response: Said::of(Some(550), None, Some(text.into())),
                mx: None,
                ip: None,
                tls: None,
                duration_ms: None,
                next_attempt_at: None,
                bounce: None,
                endpoint_id: None,
                vouched: None,
                is_final: None,
            },
        }
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let event = event("no such user", std::iter::once(("order".into(), "42".into())));
        assert_eq!(event.fitted(20_000), serde_json::to_string(&event).unwrap());
    }

    #[test]
    fn what_is_too_long_is_cut_until_it_fits_and_says_so() {
        let fitted = |event: &Event| {
            let text = event.fitted(20_000);
            assert!(text.len() <= 20_000, "{}", text.len());
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let long = fitted(&event(&"é".repeat(50_000), std::iter::once(("order".into(), "42".into()))));
        let text = long["data"]["response"]["text"].as_str().unwrap();
        assert!(text.starts_with("ééé") && text.ends_with("…[cut]"), "{text}");
        assert_eq!(long["data"]["metadata"]["order"], "42", "what is short stays whole");

        let quotes = (0..50).map(|n| (format!("name {n}"), "\"".repeat(300)));
        let values = fitted(&event("", quotes));
        assert_eq!(values["data"]["metadata"]["name 1"].as_str().unwrap().len(), 100 + MARK.len());

        let names = (0..50).map(|n| (format!("{n:03}{}", "\"".repeat(253)), String::new()));
        assert_eq!(fitted(&event("", names))["data"]["metadata"], json!({}));
    }
}
