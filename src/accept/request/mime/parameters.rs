//! The query parameters of a finished message. Each one replaces a field of a JSON message, and is parsed like that
//! field, so that the same limits apply.

use std::collections::BTreeMap;

use serde_json::Map;
use serde_json_borrow::Value;

use crate::accept::request::Context;
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::{Pointer, cut};
use crate::accept::request::message::schedule::{self, Window};
use crate::accept::request::message::{address, metadata, send, tags};
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::{NewRecipient, Tag};
use crate::domain::outcome::OnUncertain;

/// A query parameter.
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    /// The name in the query string.
    pub name: &'static str,
    /// The JSON field that it replaces.
    field: &'static str,
    /// Whether it may be repeated.
    is_list: bool,
}

/// The query parameters.
pub const PARAMETERS: [Parameter; 9] = [
    Parameter { name: "from", field: "from", is_list: false },
    Parameter { name: "to", field: "to", is_list: true },
    Parameter { name: "stream", field: "stream", is_list: false },
    Parameter { name: "tag", field: "tags", is_list: true },
    Parameter { name: "metadata", field: "metadata", is_list: true },
    Parameter { name: "scheduled_at", field: "scheduled_at", is_list: false },
    Parameter { name: "expires_at", field: "expires_at", is_list: false },
    Parameter { name: "on_uncertain", field: "on_uncertain", is_list: false },
    Parameter { name: "ignore_suppression", field: "ignore_suppression", is_list: false },
];

/// The JSON fields that the parsers read. No parameter sets `cc` or `bcc`: every recipient of the envelope is in `to`.
const FIELDS: &[&str] = &[
    "from",
    "to",
    "cc",
    "bcc",
    "stream",
    "tags",
    "metadata",
    "scheduled_at",
    "expires_at",
    "on_uncertain",
    "ignore_suppression",
];

/// The values of the parameters in the query string, by name; no list of values is empty.
#[derive(Debug, Clone, Default)]
pub struct Parameters(BTreeMap<&'static str, Vec<String>>);

impl Parameters {
    /// Creates the parameters; `read` returns the values of a parameter.
    pub fn new(mut read: impl FnMut(&'static str) -> Vec<String>) -> Self {
        let values = PARAMETERS.map(|parameter| (parameter.name, read(parameter.name)));
        Self(values.into_iter().filter(|(_, values)| !values.is_empty()).collect())
    }

    /// Returns all names and values, in a fixed order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().flat_map(|(name, values)| values.iter().map(|value| (*name, value.as_str())))
    }

    /// Returns the parameters as a JSON object with the fields that they replace.
    fn object(&self, faults: &mut Faults) -> Value<'_> {
        let mut entries: Vec<(&str, Value<'_>)> = Vec::new();
        for Parameter { name, field, is_list } in PARAMETERS {
            let Some((first, values)) = self.0.get(name).and_then(|values| Some((values.first()?, values))) else {
                continue;
            };
            if !is_list && values.len() > 1 {
                faults.push(name, Code::DuplicateField, "duplicate parameter; pass it once");
            }
            let value = match name {
                "tag" => Value::Array(pairs(name, values, faults).map(|(name, value)| tag(name, value)).collect()),
                "metadata" => {
                    let pairs = pairs(name, values, faults).map(|(name, value)| (name, text(value)));
                    Value::Object(pairs.collect::<Vec<_>>().into())
                }
                "to" => Value::Array(values.iter().map(|value| address_text(value)).collect()),
                "from" => address_text(first),
                "ignore_suppression" => first.parse().map_or_else(|_| text(first), Value::Bool),
                // A `+` in the offset of a time arrives as a space if the client does not encode it.
                "scheduled_at" | "expires_at" => Value::Str(first.replace(' ', "+").into()),
                _ => text(first),
            };
            entries.push((field, value));
        }
        Value::Object(entries.into())
    }
}

fn text(value: &str) -> Value<'_> {
    Value::Str(value.into())
}

fn tag<'v>(name: &'v str, value: &'v str) -> Value<'v> {
    Value::Object(vec![("name", text(name)), ("value", text(value))].into())
}

/// Returns an address. A `+` in a bare address arrives as a space if the client does not encode it.
pub(super) fn address_text(value: &str) -> Value<'_> {
    let is_bare = !value.contains(['<', '"']);
    if is_bare && value.trim().contains(' ') { Value::Str(value.trim().replace(' ', "+").into()) } else { text(value) }
}

/// Splits values of the form `name:value`; adds a fault for every other value.
fn pairs<'v>(name: &'static str, values: &'v [String], faults: &mut Faults) -> std::vec::IntoIter<(&'v str, &'v str)> {
    let mut pairs = Vec::with_capacity(values.len());
    for value in values {
        match value.split_once(':') {
            Some(pair) => pairs.push(pair),
            None => faults.push(name, Code::InvalidValue, format!("pass `name:value`, not `{}`", cut(value))),
        }
    }
    pairs.into_iter()
}

/// The parsed parameters.
#[derive(Debug)]
pub(super) struct Envelope {
    /// The envelope sender, if it is given.
    pub from: Option<Address>,
    /// The recipients, if any are given.
    pub to: Vec<NewRecipient>,
    pub stream: String,
    pub tags: Vec<Tag>,
    pub metadata: Map<String, serde_json::Value>,
    pub window: Window,
    pub on_uncertain: OnUncertain,
    pub ignore_suppression: bool,
}

impl Envelope {
    /// Returns whether one of its addresses needs SMTPUTF8.
    pub fn needs_smtputf8(&self) -> bool {
        let mut to = self.to.iter().map(|one| &one.mailbox.address);
        to.any(Address::needs_smtputf8) || self.from.as_ref().is_some_and(Address::needs_smtputf8)
    }

    /// Parses the parameters. Returns `None` exactly when it has added a fault.
    pub fn parse(parameters: &Parameters, context: &Context<'_>, faults: &mut Faults) -> Option<Self> {
        let before = faults.len();
        let value = parameters.object(faults);
        let (at, mut own) = (Pointer::Root, Faults::default());
        let fields = Fields::open(value, &at, FIELDS, &mut own);
        let envelope = fields.map(|mut fields| Self {
            from: fields.take("from").and_then(|node| address::sender(node, &mut own)).map(|from| from.address),
            to: address::recipients(&mut fields, context, &mut own),
            stream: send::stream(fields.take("stream"), context.streams, &mut own).into_owned(),
            tags: tags::tags(fields.take("tags"), context.limits.tags, &mut own),
            metadata: metadata::metadata(fields.take("metadata"), &mut own),
            window: schedule::window(&mut fields, context, &mut own),
            on_uncertain: send::on_uncertain(fields.take("on_uncertain"), &mut own),
            ignore_suppression: fields
                .take("ignore_suppression")
                .and_then(|node| node.boolean(&mut own))
                .unwrap_or(false),
        });
        for fault in own.into_vec() {
            faults.push(parameter_of(&fault.pointer), fault.code, fault.message);
        }
        envelope.filter(|_| faults.len() == before)
    }
}

/// Returns the name of the parameter that replaces the field in a pointer.
fn parameter_of(pointer: &str) -> &'static str {
    let field = pointer.split('/').nth(1).unwrap_or_default();
    PARAMETERS.iter().find(|parameter| parameter.field == field).map_or("", |parameter| parameter.name)
}
