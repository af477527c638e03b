//! Common helpers of the request tests.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{Context, Limits, Rejection, parse};
use crate::domain::message::NewMessage;

mod contract;
mod faults;
mod properties;
mod templates;
mod valid;

fn now() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().expect("a time")
}

fn parse_bytes(body: &[u8]) -> Result<NewMessage, Rejection> {
    let (limits, streams) = (Limits::default(), ["transactional".to_owned(), "newsletter".to_owned()]);
    parse(body, &Context::new(now(), &limits, &streams))
}

fn accepted(body: &Value) -> NewMessage {
    parse_bytes(body.to_string().as_bytes()).expect("a valid message")
}

/// Returns the pointers and codes of all faults; none if the message is valid.
fn faults(body: &[u8]) -> Vec<(String, &'static str)> {
    match parse_bytes(body) {
        Ok(_) => Vec::new(),
        Err(Rejection::Invalid(list)) => list.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
        Err(other) => panic!("{other}"),
    }
}

/// Returns the smallest valid message with some fields changed; `null` removes a field.
fn with(changes: &Value) -> Value {
    let mut body = json!({"from": "a@acme.test", "to": "ann@example.test", "subject": "Hi", "text": "Hello"});
    let (Value::Object(fields), Value::Object(changes)) = (&mut body, changes) else { panic!("objects") };
    fields.extend(changes.clone());
    body
}
