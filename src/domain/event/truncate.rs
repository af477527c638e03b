//! Truncates long texts in webhook events, because receivers may limit bodies to 20 kB. The API returns the full event.

use serde_json::{Value, json};

use super::Event;

/// The lengths to which texts are cut, in characters. They are tried in order until the event fits. Subjects keep at
/// least 100.
const LENGTHS: [usize; 4] = [2_000, 500, 100, 20];
/// The suffix of a truncated text.
const MARK: &str = "…[cut]";

impl Event {
    /// Returns the event's JSON in at most `limit` bytes, unless the fields that are never truncated are longer.
    pub fn to_json_within(&self, limit: usize) -> String {
        let full = json(self);
        if full.len() <= limit {
            return full;
        }
        let mut event = self.clone();
        for length in LENGTHS {
            if let Some(reply) = &mut event.data.response {
                cut(&mut reply.text, length);
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
        // The metadata may have many or long names, which are not cut.
        event.data.metadata = json!({});
        let text = json(&event);
        if text.len() <= limit {
            return text;
        }
        // The list of recipients is too long.
        event.data.recipients = None;
        json(&event)
    }
}

fn json(event: &Event) -> String {
    // Serialisation cannot fail, because every key is a string.
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
    use crate::domain::explain::SmtpReply;

    fn event(text: &str, metadata: impl Iterator<Item = (String, String)>) -> Event {
        let metadata: Map<String, Value> = metadata.map(|(name, value)| (name, value.into())).collect();
        Event {
            seq: 1,
            kind: "message.bounced".into(),
            timestamp: DateTime::UNIX_EPOCH,
            data: EventData {
                metadata: metadata.into(),
                attempt: Some(1),
                response: SmtpReply::from_row(Some(550), None, Some(text.into())),
                ..EventData::empty()
            },
        }
    }

    #[test]
    fn event_that_fits_is_unchanged() {
        let event = event("no such user", std::iter::once(("order".into(), "42".into())));
        assert_eq!(event.to_json_within(20_000), serde_json::to_string(&event).unwrap());
    }

    #[test]
    fn long_texts_are_cut_until_the_event_fits() {
        let fitted = |event: &Event| {
            let text = event.to_json_within(20_000);
            assert!(text.len() <= 20_000, "{}", text.len());
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let long = fitted(&event(&"é".repeat(50_000), std::iter::once(("order".into(), "42".into()))));
        let text = long["data"]["response"]["text"].as_str().unwrap();
        assert!(text.starts_with("ééé") && text.ends_with("…[cut]"), "{text}");
        assert_eq!(long["data"]["metadata"]["order"], "42", "short texts are not cut");

        let quotes = (0..50).map(|n| (format!("name {n}"), "\"".repeat(300)));
        let values = fitted(&event("", quotes));
        assert_eq!(values["data"]["metadata"]["name 1"].as_str().unwrap().len(), 100 + MARK.len());

        let names = (0..50).map(|n| (format!("{n:03}{}", "\"".repeat(253)), String::new()));
        assert_eq!(fitted(&event("", names))["data"]["metadata"], json!({}));
    }
}
