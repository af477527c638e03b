//! Parses tags: names and values by which messages can be filtered. The status, lists and events of messages include
//! them.

use std::borrow::Cow;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::Tag;

/// The fields of a tag.
pub const FIELDS: &[&str] = &["name", "value"];

const MAX_LENGTH: usize = 256;

/// Parses `tags`, an array of `{"name", "value"}`.
pub fn tags(node: Option<Node<'_, '_>>, limit: usize, faults: &mut Faults) -> Vec<Tag> {
    let mut list = Vec::new();
    if let Some(node) = node {
        let why = format_args!("at most {limit} tags are allowed");
        node.each(limit, why, faults, |item, faults| list.extend(tag(item, faults)));
    }
    list
}

fn tag(node: Node<'_, '_>, faults: &mut Faults) -> Option<Tag> {
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, FIELDS, faults)?;
    let name = fields.require("name", faults).and_then(|node| name_or_value(node, faults));
    let value = fields.require("value", faults).and_then(|node| name_or_value(node, faults));
    Some(Tag { name: name?.into_owned(), value: value?.into_owned() })
}

/// Parses a name or value: only letters, digits, `_` and `-`, so that `?tag=name:value` needs no escaping.
fn name_or_value<'v>(node: Node<'_, 'v>, faults: &mut Faults) -> Option<Cow<'v, str>> {
    let at = node.at;
    let text = node.line(1..=MAX_LENGTH, faults)?;
    if text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')) {
        return Some(text);
    }
    at.fault(faults, Code::InvalidValue, "must contain only ASCII letters, digits, `_` and `-`");
    None
}
