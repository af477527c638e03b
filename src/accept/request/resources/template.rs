//! Parses the bodies of `POST /v1/templates`, `PATCH /v1/templates/{id}`, `POST /v1/templates/{id}/preview` and `POST
//! /v1/templates/validate`.
//!
//! A draft may be incomplete or faulty: its sources and variables are checked when it is published. Here only the form of
//! the fields is checked: types, lengths, duplicates, and addresses without placeholders.

use std::borrow::Cow;

use serde_json::Map;
use serde_json_borrow::Value;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::message::address;
use crate::accept::request::message::render::{json as any_json, name as template_name, variables as values};
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::limits::Change;
use crate::domain::message::template::{MAX_ALIAS, MAX_NAME, TemplateName, check_alias};
use crate::template::limits::{MAX_KEY, MAX_LINE_SOURCE, MAX_REPLY_TO, MAX_SOURCE, MAX_VARIABLES};
use crate::template::{Format, Syntax, Variable, VariableType};

/// The fields of a template.
pub const FIELDS: &[&str] =
    &["name", "alias", "syntax", "format", "subject", "html", "text", "from", "reply_to", "layout", "variables"];
/// The fields of a change of a template.
pub const CHANGED: &[&str] = &[
    "name",
    "alias",
    "revision",
    "syntax",
    "format",
    "subject",
    "html",
    "text",
    "from",
    "reply_to",
    "layout",
    "variables",
];
/// The fields of a template to validate.
pub const VALIDATED: &[&str] =
    &["syntax", "format", "subject", "html", "text", "from", "reply_to", "layout", "variables", "values"];
/// The fields of a declared variable.
pub const VARIABLE: &[&str] = &["key", "type", "required", "default", "max_length"];
/// The fields of a preview.
pub const PREVIEW: &[&str] = &["variables", "version"];

/// Changes to a template's content. In a new template, a field that is not set has its default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContentChange {
    /// The language of the placeholders.
    pub syntax: Option<Syntax>,
    /// The language of `html`.
    pub format: Option<Format>,
    /// The subject.
    pub subject: Change<String>,
    /// The HTML or MJML body.
    pub html: Change<String>,
    /// The plain text body.
    pub text: Change<String>,
    /// The sender.
    pub from: Change<String>,
    /// Addresses for replies.
    pub reply_to: Change<Vec<String>>,
    /// The layout.
    pub layout: Change<TemplateName>,
    /// The declared variables.
    pub variables: Change<Vec<Variable>>,
}

/// Changes to a template.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TemplateChange {
    /// The display name; required in a new template.
    pub name: Option<String>,
    /// The alias.
    pub alias: Change<String>,
    /// The revision that the changes were made for; `None` means any.
    pub revision: Option<i32>,
    /// The draft.
    pub content: ContentChange,
}

/// What to preview.
#[derive(Debug, Clone, PartialEq)]
pub struct Preview {
    /// The values of the variables.
    pub variables: Map<String, serde_json::Value>,
    /// The version; `None` means the draft.
    pub version: Option<i32>,
}

/// A template to validate.
#[derive(Debug, Clone, PartialEq)]
pub struct Validation {
    /// The template.
    pub content: ContentChange,
    /// The values of the variables to render it with; `None` means suggested values.
    pub values: Option<Map<String, serde_json::Value>>,
}

/// Parses a new template.
pub fn parse(body: &[u8]) -> Result<TemplateChange, Rejection> {
    parse_fields(body, FIELDS, |fields, faults| {
        let name = fields.require("name", faults).and_then(|node| name(node, faults));
        change(fields, name, faults)
    })
}

/// Parses changes to a template: `null` clears a field, a missing field keeps it. `name`, `syntax` and `format` cannot be
/// cleared.
pub fn parse_change(body: &[u8]) -> Result<TemplateChange, Rejection> {
    parse_fields(body, CHANGED, |fields, faults| {
        for name in ["name", "revision", "syntax", "format"] {
            fields.not_null(name, faults);
        }
        let name = fields.take("name").and_then(|node| name(node, faults));
        let revision = fields.take("revision").and_then(|node| node.whole(1..=i32::MAX.unsigned_abs().into(), faults));
        TemplateChange { revision, ..change(fields, name, faults) }
    })
}

fn parse_fields(
    body: &[u8],
    allowed: &'static [&'static str],
    read: impl FnOnce(&mut Fields<'_, '_>, &mut Faults) -> TemplateChange,
) -> Result<TemplateChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let change =
        Fields::open(value, &Pointer::Root, allowed, &mut faults).map(|mut fields| read(&mut fields, &mut faults));
    finish(change, faults)
}

fn finish<T>(value: Option<T>, faults: Faults) -> Result<T, Rejection> {
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Parses the body of a preview.
pub fn parse_preview(body: &[u8]) -> Result<Preview, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let preview = Fields::open(value, &Pointer::Root, PREVIEW, &mut faults).map(|mut fields| Preview {
        variables: fields.take("variables").map_or_else(Map::new, |node| values(node, &mut faults)),
        version: fields.take("version").and_then(|node| node.whole(1..=i32::MAX.unsigned_abs().into(), &mut faults)),
    });
    finish(preview, faults)
}

/// Parses a template to validate.
pub fn parse_validation(body: &[u8]) -> Result<Validation, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let validation = Fields::open(value, &Pointer::Root, VALIDATED, &mut faults).map(|mut fields| Validation {
        content: content(&mut fields, &mut faults),
        values: fields.take("values").map(|node| values(node, &mut faults)),
    });
    finish(validation, faults)
}

fn change(fields: &mut Fields<'_, '_>, name: Option<String>, faults: &mut Faults) -> TemplateChange {
    TemplateChange {
        name,
        alias: fields.change("alias", |node| alias(node, faults)),
        revision: None,
        content: content(fields, faults),
    }
}

fn name(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    node.line(1..=MAX_NAME, faults).map(Cow::into_owned)
}

fn alias(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.line(1..=MAX_ALIAS, faults)?;
    check_alias(&text).map_err(|error| at.fault(faults, Code::InvalidValue, error)).ok()?;
    Some(text.into_owned())
}

fn content(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> ContentChange {
    ContentChange {
        syntax: fields.take("syntax").and_then(|node| syntax(node, faults)),
        format: fields.take("format").and_then(|node| format(node, faults)),
        subject: fields.change("subject", |node| node.line(0..=MAX_LINE_SOURCE, faults).map(Cow::into_owned)),
        html: fields.change("html", |node| body(node, faults)),
        text: fields.change("text", |node| body(node, faults)),
        from: fields.change("from", |node| mailbox(node, faults)),
        reply_to: fields.change("reply_to", |node| Some(reply_to(node, faults))),
        layout: fields.change("layout", |node| template_name(node, faults)),
        variables: fields.change("variables", |node| Some(variables(node, faults))),
    }
}

fn syntax(node: Node<'_, '_>, faults: &mut Faults) -> Option<Syntax> {
    let at = node.at;
    match &*node.string(faults)? {
        "jinja" => return Some(Syntax::Jinja),
        "vars" => return Some(Syntax::Vars),
        _ => at.fault(faults, Code::InvalidValue, "use `jinja` or `vars`"),
    }
    None
}

fn format(node: Node<'_, '_>, faults: &mut Faults) -> Option<Format> {
    let at = node.at;
    match &*node.string(faults)? {
        "html" => return Some(Format::Html),
        "mjml" => return Some(Format::Mjml),
        _ => at.fault(faults, Code::InvalidValue, "use `html` or `mjml`"),
    }
    None
}

fn body(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.prose(faults)?;
    if text.len() > MAX_SOURCE {
        let message = format_args!("has {} bytes; at most {MAX_SOURCE} are allowed", text.len());
        at.fault(faults, Code::TooLarge, message);
        return None;
    }
    Some(text)
}

/// Parses a sender or an address for replies, which is a template itself. Without placeholders it must be valid now;
/// otherwise it is checked when it is rendered.
fn mailbox(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let text = node.line(1..=MAX_LINE_SOURCE, faults)?.into_owned();
    if !text.contains('{') {
        address::sender(Node { value: Value::Str(text.as_str().into()), at }, faults)?;
    }
    Some(text)
}

fn reply_to(node: Node<'_, '_>, faults: &mut Faults) -> Vec<String> {
    let mut list = Vec::new();
    let why = format_args!("at most {MAX_REPLY_TO} addresses are allowed");
    node.one_or_each(MAX_REPLY_TO, why, faults, |item, faults| list.extend(mailbox(item, faults)));
    list
}

/// Parses the declared variables. Their keys and defaults are checked when the template is published.
fn variables(node: Node<'_, '_>, faults: &mut Faults) -> Vec<Variable> {
    let mut list: Vec<Variable> = Vec::new();
    let why = format_args!("at most {MAX_VARIABLES} variables are allowed");
    node.each(MAX_VARIABLES, why, faults, |item, faults| {
        let at = item.at;
        let Some(new) = variable(item, faults) else { return };
        if list.iter().any(|earlier| earlier.key == new.key) {
            Pointer::Field(&at, "key").fault(faults, Code::DuplicateValue, "another variable has the same key");
        }
        list.push(new);
    });
    list
}

fn variable(node: Node<'_, '_>, faults: &mut Faults) -> Option<Variable> {
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, VARIABLE, faults)?;
    let key = fields.require("key", faults).and_then(|node| node.line(1..=MAX_KEY, faults));
    let kind = fields.require("type", faults).and_then(|node| kind(node, faults));
    let required = fields.take("required").map(|node| node.boolean(faults));
    let default = fields.take("default").and_then(|node| any_json(node, faults));
    let max_length = fields.take("max_length").and_then(|node| node.whole(1..=u64::from(u32::MAX), faults));
    Some(Variable {
        key: key?.into_owned(),
        kind: kind?,
        // A variable is required unless it says otherwise, or has a default.
        required: required.map_or(default.is_none(), Option::unwrap_or_default),
        default,
        max_length,
    })
}

fn kind(node: Node<'_, '_>, faults: &mut Faults) -> Option<VariableType> {
    let at = node.at;
    Some(match &*node.string(faults)? {
        "string" => VariableType::String,
        "number" => VariableType::Number,
        "boolean" => VariableType::Boolean,
        "array" => VariableType::Array,
        "object" => VariableType::Object,
        _ => {
            let message = "use `string`, `number`, `boolean`, `array` or `object`";
            at.fault(faults, Code::InvalidValue, message);
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(result: Result<TemplateChange, Rejection>) -> Vec<(String, &'static str)> {
        let Err(Rejection::Invalid(faults)) = result else { panic!("{result:?}") };
        faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    #[test]
    fn only_the_name_is_required() {
        let template = parse(br#"{"name": "Invoice"}"#).expect("valid");
        assert_eq!(template, TemplateChange { name: Some("Invoice".into()), ..TemplateChange::default() });
        assert_eq!(faults(parse(b"{}")), [("/name".to_owned(), "required")]);
        assert_eq!(parse_change(b"{}"), Ok(TemplateChange::default()));
    }

    #[test]
    fn every_fault_is_reported() {
        let body =
            br#"{"name": "", "alias": "tpl_x", "syntax": "liquid", "format": 1, "subject": "a\nb", "html": "\u0000",
            "text": [], "from": "acme", "reply_to": ["a@b.test", "{{ name }} <a@b.test>", "x"], "layout": "a b",
            "variables": [{"key": "a"}, {"key": "b", "type": "date", "max_length": 0},
                          {"key": "c", "type": "string", "default": ["\u0000"]}, {"key": "c", "type": "number"}],
            "variable": {}}"#;
        let expected = [
            ("/variable", "unknown_field"),
            ("/name", "required"),
            ("/alias", "invalid_value"),
            ("/syntax", "invalid_value"),
            ("/format", "invalid_type"),
            ("/subject", "control_character"),
            ("/html", "control_character"),
            ("/text", "invalid_type"),
            ("/from", "invalid_address"),
            ("/reply_to/2", "invalid_address"),
            ("/layout", "invalid_value"),
            ("/variables/0/type", "required"),
            ("/variables/1/type", "invalid_value"),
            ("/variables/1/max_length", "invalid_value"),
            ("/variables/2/default", "control_character"),
            ("/variables/3/key", "duplicate_value"),
        ];
        assert_eq!(faults(parse(body)), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let nulls = br#"{"name": null, "syntax": null, "format": null, "alias": null}"#;
        let expected = [("/name", "invalid_type"), ("/syntax", "invalid_type"), ("/format", "invalid_type")];
        assert_eq!(faults(parse_change(nulls)), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn long_texts_are_refused() {
        let long = "x".repeat(MAX_SOURCE + 1);
        let body = serde_json::json!({"name": "n".repeat(256), "alias": "a".repeat(101), "html": long, "text": long});
        let expected = [("/name", "too_long"), ("/alias", "too_long"), ("/html", "too_large"), ("/text", "too_large")];
        let found = faults(parse(body.to_string().as_bytes()));
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn change_distinguishes_null_from_missing() {
        let change = parse_change(br#"{"alias": null, "subject": "{{ a }}", "reply_to": "a@b.test"}"#).expect("valid");
        assert_eq!((change.name, change.alias), (None, Change::Clear));
        assert_eq!(change.content.subject, Change::Set("{{ a }}".into()));
        assert_eq!(change.content.reply_to, Change::Set(vec!["a@b.test".into()]));
        assert_eq!(change.content.html, Change::Keep);
    }

    #[test]
    fn variable_is_required_unless_it_has_a_default() {
        let body = br#"{"variables": [{"key": "a", "type": "string"}, {"key": "b", "type": "number", "default": 1},
                                      {"key": "c", "type": "array", "required": false}]}"#;
        let Change::Set(variables) = parse_change(body).expect("valid").content.variables else { panic!("variables") };
        let required: Vec<bool> = variables.iter().map(|variable| variable.required).collect();
        assert_eq!(required, [true, false, false]);
    }

    #[test]
    fn preview_has_values_and_a_version() {
        let preview = parse_preview(br#"{"variables": {"a": [1, null]}, "version": 2}"#).expect("valid");
        assert_eq!((preview.variables["a"].to_string(), preview.version), ("[1,null]".to_owned(), Some(2)));
        for (body, pointer, code) in [
            (r#"{"variables": []}"#, "/variables", "invalid_type"),
            (r#"{"variables": {"a": {"b": "\u0000"}}}"#, "/variables/a", "control_character"),
            (r#"{"version": 0}"#, "/version", "invalid_value"),
            (r#"{"version": 2147483648}"#, "/version", "invalid_value"),
            (r#"{"html": ""}"#, "/html", "unknown_field"),
        ] {
            let Err(Rejection::Invalid(faults)) = parse_preview(body.as_bytes()) else { panic!("{body}") };
            assert_eq!((faults.len(), &*faults[0].pointer, faults[0].code), (1, pointer, code));
        }
    }
}
