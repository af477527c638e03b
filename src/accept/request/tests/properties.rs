//! Property tests: parsing never panics, and no text that goes into a header or an SMTP command contains control
//! characters.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{accepted, parse_bytes, with};
use crate::accept::request::message::send;
use crate::domain::message::NewMessage;

fn name() -> impl Strategy<Value = String> {
    let known =
        [send::FIELDS, &["email", "name", "value", "filename", "content", "content_type", "content_id"]].concat();
    prop_oneof![4 => proptest::sample::select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|n| json!(n)),
        any::<String>().prop_map(Value::from),
        "[a-z\r\n\u{0}@<> ]{0,12}@[a-z.\r\n]{1,8}".prop_map(Value::from),
        "[A-Za-z0-9+/=\n]{0,12}".prop_map(Value::from),
        "20[0-9]{2}-[0-1][0-9]-[0-3][0-9]T[0-2][0-9]:00:00Z".prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 60, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            proptest::collection::vec((name(), inner), 0..8)
                .prop_map(|entries| Value::Object(entries.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Returns all texts that go into a header or an SMTP command.
fn protocol_texts(message: &NewMessage) -> Vec<String> {
    let mut texts = vec![message.from.to_string(), message.subject.clone()];
    texts.extend(message.recipients.iter().map(|recipient| recipient.mailbox.to_string()));
    texts.extend(message.reply_to.iter().map(ToString::to_string));
    texts.extend(message.content.headers.iter().flat_map(|header| [header.name.clone(), header.value.clone()]));
    for file in message.attachments.iter().map(|file| &file.description) {
        texts.extend([file.filename.clone(), file.content_type.clone()]);
        texts.extend(file.content_id.clone());
    }
    texts
}

proptest! {
    #[test]
    fn parsing_any_bytes_does_not_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_bytes(&body);
    }

    #[test]
    fn parsing_any_json_does_not_panic(body in tree()) {
        if let Ok(message) = parse_bytes(body.to_string().as_bytes()) {
            prop_assert!(!message.recipients.is_empty());
        }
    }

    #[test]
    fn accepted_texts_have_no_control_characters(name in name(), value in tree()) {
        let mut body = with(&json!({}));
        body[&name] = value;
        if let Ok(message) = parse_bytes(body.to_string().as_bytes()) {
            for text in protocol_texts(&message) {
                prop_assert!(!text.contains(char::is_control), "{:?}", text);
            }
        }
    }

    #[test]
    fn valid_message_is_parsed_unchanged(
        subject in "\\PC{0,60}", text in "[^\u{0}]{0,80}", html in proptest::option::of("[^\u{0}]{0,80}"),
        value in "\\PC{0,60}", filename in "\\PC{1,40}", name in "[^\\PC]{0}|\\PC{0,30}", key in "[!-9;-~]{1,70}",
    ) {
        let key = format!("X-{key}");
        let message = accepted(&with(&json!({
            "to": {"email": "ann@example.test", "name": name}, "subject": subject, "text": text, "html": html,
            "headers": {key.clone(): value}, "attachments": [{"filename": filename, "content": ""}],
        })));
        prop_assert_eq!(message.recipients[0].mailbox.name.as_deref().unwrap_or(""), name.trim());
        prop_assert_eq!(message.subject, subject);
        let html = html.filter(|html| !html.trim().is_empty());
        prop_assert_eq!(message.content.text, Some(text).filter(|text| html.is_none() || !text.trim().is_empty()));
        prop_assert_eq!(message.content.html, html);
        prop_assert_eq!((&message.content.headers[0].name, &message.content.headers[0].value), (&key, &value));
        prop_assert_eq!(&message.attachments[0].description.filename, &filename);
    }
}
