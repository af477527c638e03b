//! Tests of messages with a template.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::now;
use crate::accept::request::batch::{self, Batch, Layout};
use crate::accept::request::message::render::{Lookup, NO_TEMPLATES, TemplateRef, Templates};
use crate::accept::request::{Context, Limits, Rejection, parse};
use crate::domain::id::TemplateId;
use crate::domain::message::NewMessage;
use crate::domain::message::template::TemplateVersion;
use crate::template::{Format, Layouts, Program, Source, Syntax, Variable, VariableType, compile};

const WHICH: TemplateVersion = TemplateVersion { template: TemplateId(Uuid::from_u128(1)), version: 3 };

fn source() -> Source {
    Source {
        syntax: Syntax::Jinja,
        format: Format::Html,
        subject: Some("Hello {{ name }}".into()),
        html: Some("<p>{{ name }}</p>".into()),
        text: Some("{{ name }}".into()),
        from: Some("a@acme.test".into()),
        reply_to: vec!["r@acme.test".into()],
        layout: None,
        variables: vec![Variable {
            key: "name".into(),
            kind: VariableType::String,
            required: true,
            default: None,
            max_length: None,
        }],
    }
}

fn found(source: &Source) -> Lookup {
    let layouts = Layouts::new(source, &[]).unwrap();
    let program = Program::new(&compile(source, &layouts).unwrap()).unwrap();
    Lookup::Found { which: WHICH, program: Arc::new(program) }
}

/// Returns the templates of a request that names only `greeting`, whose lookup has this result.
fn greeting(lookup: Lookup) -> Templates {
    let named = TemplateRef { name: "greeting".parse().unwrap(), version: None };
    Templates::new(BTreeMap::from([(named, lookup)]))
}

/// Parses a batch with these templates.
fn parse_batch(templates: &Templates, body: &Value) -> Result<Batch, Rejection> {
    let (limits, streams) = (Limits::default(), ["transactional".to_owned()]);
    let context = Context { templates, ..Context::new(now(), &limits, &streams) };
    let body = body.to_string();
    batch::parse(body.as_bytes(), &Layout::read(body.as_bytes())?, &context, false)
}

/// Returns a message of a batch with the template `greeting` and this variable.
fn greet(name: &str) -> Value {
    json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": {"name": name}}})
}

/// Parses a message with the template `greeting`, whose lookup has this result.
fn parse_with(lookup: Lookup, fields: &Value) -> Result<NewMessage, Rejection> {
    let mut body = json!({"to": "ann@example.test", "template": {"id": "greeting", "variables": {"name": "Ann"}}});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let templates = greeting(lookup);
    let (limits, streams) = (Limits::default(), ["transactional".to_owned()]);
    let context = Context { templates: &templates, ..Context::new(now(), &limits, &streams) };
    parse(body.to_string().as_bytes(), &context)
}

fn faults(result: Result<NewMessage, Rejection>) -> Vec<(String, &'static str)> {
    let Err(Rejection::Invalid(faults)) = result else { panic!("{result:?}") };
    faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
}

#[test]
fn missing_template_is_reported_before_the_rest_is_parsed() {
    let body =
        json!({"to": "not an address", "template": {"id": "greeting", "version": 2}, "attachments": 5}).to_string();
    let (limits, templates) = (Limits::default(), Templates::default());
    let context = Context { templates: &templates, ..Context::new(now(), &limits, &[]) };
    let named = TemplateRef { name: "greeting".parse().unwrap(), version: Some(2) };
    assert_eq!(parse(body.as_bytes(), &context).unwrap_err(), Rejection::NeedsTemplates(vec![named]));
}

#[test]
fn message_has_the_rendered_parts() {
    let message = parse_with(found(&source()), &json!({})).unwrap();
    assert_eq!((message.subject.as_str(), message.content.text.as_deref()), ("Hello Ann", Some("Ann")));
    assert!(message.content.html.unwrap().contains("<p>Ann</p>"));
    assert_eq!(
        (message.from.to_string(), message.reply_to[0].to_string()),
        ("a@acme.test".into(), "r@acme.test".into())
    );
    assert_eq!((message.template, message.warnings), (Some(WHICH), Vec::new()));
}

#[test]
fn fields_of_the_request_take_precedence() {
    let fields = json!({"subject": "", "from": "b@acme.test", "reply_to": "s@acme.test"});
    let message = parse_with(found(&source()), &fields).unwrap();
    assert_eq!((message.subject.as_str(), message.from.to_string()), ("", "b@acme.test".to_owned()));
    assert_eq!(message.reply_to.len(), 1);
    assert_eq!(message.reply_to[0].to_string(), "s@acme.test");
}

#[test]
fn unusable_template_is_a_fault_like_others() {
    for (lookup, pointer, code) in [
        (Lookup::Unknown, "/template/id", "unknown_template"),
        (Lookup::NotPublished, "/template/id", "not_published"),
        (Lookup::UnknownVersion { latest: 1 }, "/template/version", "unknown_template"),
        (Lookup::Unreadable, "/template/id", "not_published"),
    ] {
        let found = faults(parse_with(lookup, &json!({"to": "ann", "text": "x"})));
        let expected = [(pointer, code), ("/to", "invalid_address"), ("/text", "invalid_value")];
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }
}

#[test]
fn rendered_address_must_be_valid() {
    let from = Source { from: Some("{{ name }}".into()), ..source() };
    assert_eq!(faults(parse_with(found(&from), &json!({}))), [("/template".to_owned(), "invalid_address")]);
    let reply_to = Source { reply_to: vec!["{{ name }}".into()], ..source() };
    assert_eq!(faults(parse_with(found(&reply_to), &json!({}))), [("/template".to_owned(), "invalid_address")]);
}

#[test]
fn blank_rendered_body_counts_as_absent() {
    let blank = Source { html: None, text: Some("{% if false %}{{ name }}{% endif %}".into()), ..source() };
    let message = parse_with(found(&blank), &json!({}));
    assert_eq!(message.unwrap().content.text.as_deref(), Some(""));
    let both = Source { text: Some(" ".into()), ..source() };
    let content = parse_with(found(&both), &json!({})).unwrap().content;
    assert!(content.text.is_none() && content.html.is_some());
}

#[test]
fn nul_in_a_rendered_body_is_refused() {
    let nul = Source { text: Some("{{ '\\x00' }}{{ name }}".into()), ..source() };
    let result = parse_with(found(&nul), &json!({}));
    assert_eq!(faults(result), [("/template".to_owned(), "control_character")]);
}

#[test]
fn missing_templates_of_a_batch_are_reported_together() {
    let named = |name: &str| TemplateRef { name: name.parse().unwrap(), version: None };
    let body = json!([greet("Ann"), {"template": {"id": "other"}}, greet("Bo"), {"to": 5}]);
    let rejection = parse_batch(&Templates::default(), &body).unwrap_err();
    assert_eq!(rejection, Rejection::NeedsTemplates(vec![named("greeting"), named("other")]));
    let batch = parse_batch(&greeting(found(&source())), &body).unwrap();
    assert_eq!(batch.messages.iter().map(|one| one.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(batch.messages[1].message.subject, "Hello Bo");
    assert_eq!(batch.refused[0].errors[0].pointer, "/1/template/id");
}

#[test]
fn request_without_templates_has_unknown_ones() {
    let batch = parse_batch(&NO_TEMPLATES, &json!([greet("Ann")])).unwrap();
    assert_eq!(batch.refused[0].errors[0].code, "unknown_template");
}

#[test]
fn work_of_a_batch_is_bounded() {
    let failing = Source { text: Some("{{ name | round }}".into()), ..source() };
    let messages: Vec<Value> = (0..105).map(|_| greet("Ann")).collect();
    let batch = parse_batch(&greeting(found(&failing)), &json!(messages)).unwrap();
    let count = |code| batch.refused.iter().filter(|one| one.errors[0].code == code).count();
    assert_eq!((count("render_failed"), count("too_expensive")), (101, 4));
}
