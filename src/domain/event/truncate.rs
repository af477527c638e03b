//! Truncates events for webhooks, since receivers may limit bodies to 20 kB: long texts of users and servers are cut.
//! The API returns the full event.

use serde_json::{Value, json};

use super::Event;

/// The lengths, in characters, to which texts are cut, tried in order until the event fits.
const LENGTHS: [usize; 4] = [2_000, 500, 100, 20];
/// The suffix of a truncated text.
const MARK: &str = "…[cut]";

impl Event {
    /// Returns its JSON in at most `limit` bytes, if the limit leaves room for the fields that are not truncated.
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
        // The metadata's names alone are too long.
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
                metadata: metadata.into(),
                attempt: Some(1),
                response: Said::from_row(Some(550), None, Some(text.into())),
                ..EventData::empty()
            },
        }
    }

    #[test]
    fn event_that_fits_is_unchanged() {
        let event = event("no such user", std::iter::once(("order".into(), "42".into())));
        assert_eq!(event.fitted(20_000), serde_json::to_string(&event).unwrap());
    }

    #[test]
    fn long_texts_are_cut_until_the_event_fits() {
        let fitted = |event: &Event| {
            let text = event.fitted(20_000);
            assert!(text.len() <= 20_000, "{}", text.len());
            serde_json::from_str::<Value>(&text).unwrap()
        };
        let long = fitted(&event(&"é".repeat(50_000), std::iter::once(("order".into(), "42".into()))));
        let text = long["data"]["response"]["text"].as_str().unwrap();
        assert!(text.starts_with("ééé") && text.ends_with("…[cut]"), "{text}");
        assert_eq!(long["data"]["metadata"]["order"], "42", "short texts stay whole");

        let quotes = (0..50).map(|n| (format!("name {n}"), "\"".repeat(300)));
        let values = fitted(&event("", quotes));
        assert_eq!(values["data"]["metadata"]["name 1"].as_str().unwrap().len(), 100 + MARK.len());

        let names = (0..50).map(|n| (format!("{n:03}{}", "\"".repeat(253)), String::new()));
        assert_eq!(fitted(&event("", names))["data"]["metadata"], json!({}));
    }
}
