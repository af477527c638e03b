//! Checks that the documented schema and the parser have the same fields.

use serde_json::{Value, json};
use utoipa::PartialSchema;

use super::{faults, with};
use crate::accept::request::message::{address, alternatives, attachments, headers, render, send, tags};
use crate::accept::request::schema::{
    AddressParts, AlternativeInput, AttachmentInput, SendRequest, TagInput, TemplateInput,
};

fn properties<S: PartialSchema>() -> Vec<String> {
    let schema = serde_json::to_value(S::schema()).expect("a schema");
    let mut names: Vec<_> = schema["properties"].as_object().expect("an object schema").keys().cloned().collect();
    names.sort();
    names
}

fn sorted(fields: &[&str]) -> Vec<String> {
    let mut names: Vec<_> = fields.iter().map(ToString::to_string).collect();
    names.sort();
    names
}

/// Checks every documented field with a value of a wrong type, in a valid object that `wrap` puts into a message.
fn check<S: PartialSchema>(pointer: &str, valid: &Value, wrap: impl Fn(Value) -> Value) {
    let body = |name: &str, value: Value| {
        let mut object = valid.clone();
        object[name] = value;
        wrap(object).to_string()
    };
    for name in properties::<S>() {
        let found = faults(body(&name, json!(1)).as_bytes());
        let here = format!("{pointer}/{name}");
        let fault = found.iter().find(|(pointer, _)| *pointer == here);
        assert!(fault.is_some_and(|(_, code)| *code != "unknown_field"), "{here}: {found:?}");
    }
    let found = faults(body("no_such_field", json!(1)).as_bytes());
    assert_eq!(found, [(format!("{pointer}/no_such_field"), "unknown_field")]);
}

#[test]
fn only_documented_fields_are_parsed() {
    check::<SendRequest>("", &with(&json!({})), |body| body);
    check::<AddressParts>("/cc", &json!({"email": "a@b"}), |address| with(&json!({"cc": address})));
    check::<AttachmentInput>("/attachments/0", &json!({"filename": "a", "content": ""}), |file| {
        with(&json!({"attachments": [file]}))
    });
    check::<AlternativeInput>("/alternatives/0", &json!({"content_type": "text/a", "content": ""}), |alternative| {
        with(&json!({"alternatives": [alternative]}))
    });
    check::<TagInput>("/tags/0", &json!({"name": "a", "value": "b"}), |tag| with(&json!({"tags": [tag]})));
}

#[test]
fn parser_fields_are_the_documented_ones() {
    assert_eq!(properties::<SendRequest>(), sorted(send::FIELDS));
    assert_eq!(properties::<AddressParts>(), sorted(address::FIELDS));
    assert_eq!(properties::<AttachmentInput>(), sorted(attachments::FIELDS));
    assert_eq!(properties::<AlternativeInput>(), sorted(alternatives::FIELDS));
    assert_eq!(properties::<TagInput>(), sorted(tags::FIELDS));
    assert_eq!(properties::<TemplateInput>(), sorted(render::FIELDS));
}

#[test]
fn schema_forbids_other_fields_and_requires_the_same() {
    let schema = serde_json::to_value(SendRequest::schema()).expect("a schema");
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(schema["required"], Value::Null);
    for schema in [
        AddressParts::schema(),
        AttachmentInput::schema(),
        AlternativeInput::schema(),
        TagInput::schema(),
        TemplateInput::schema(),
    ] {
        assert_eq!(serde_json::to_value(schema).expect("a schema")["additionalProperties"], false);
    }
}

#[test]
fn documentation_lists_every_denied_header() {
    let schema = serde_json::to_value(SendRequest::schema()).expect("a schema");
    let text = schema["properties"]["headers"].to_string();
    for denied in headers::DENIED {
        assert!(text.contains(&format!("`{}`", denied.name)), "{} is not in the document", denied.name);
    }
}
