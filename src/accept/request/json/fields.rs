//! Access to JSON objects with a fixed set of field names. Objects whose names the sender chooses, such as `metadata`,
//! are read with [`Node::each_entry`].

use std::borrow::Cow;

use serde_json_borrow::Value;

use super::pointer::{Pointer, cut};
use super::suggestion::suggestion;
use super::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::limits::Change;

/// Adds a fault for a duplicate name in an object.
pub fn duplicate(at: &Pointer<'_>, name: &str, faults: &mut Faults) {
    at.fault(faults, Code::DuplicateField, format_args!("duplicate key `{}`", cut(name)));
}

/// An object with a fixed set of field names. Opening it adds a fault for each unknown or duplicate name.
#[derive(Debug)]
pub struct Fields<'p, 'v> {
    entries: Vec<(Cow<'v, str>, Value<'v>)>,
    at: &'p Pointer<'p>,
    allowed: &'static [&'static str],
}

impl<'p, 'v> Fields<'p, 'v> {
    /// Opens an object that may have only the `allowed` fields, at most 64.
    pub fn open(
        value: Value<'v>,
        at: &'p Pointer<'p>,
        allowed: &'static [&'static str],
        faults: &mut Faults,
    ) -> Option<Self> {
        let Value::Object(object) = value else {
            Node { value, at: *at }.wrong_type("an object", faults);
            return None;
        };
        let entries = object.into_vec();
        let mut present = 0_u64;
        for (name, _) in &entries {
            if faults.is_full() {
                break;
            }
            let here = Pointer::Field(at, name);
            match allowed.iter().position(|field| field == name) {
                Some(index) if present & (1 << index) != 0 => duplicate(&here, name, faults),
                Some(index) => present |= 1 << index,
                None => unknown(&here, name, allowed, faults),
            }
        }
        Some(Self { entries, at, allowed })
    }

    /// Removes and returns a field, or returns `None` if it is missing or `null`. If there are duplicates, the first
    /// one is used.
    pub fn take(&mut self, name: &'static str) -> Option<Node<'p, 'v>> {
        debug_assert!(self.allowed.contains(&name), "{name} is read but not in the list of allowed fields");
        let (_, value) = self.entries.iter_mut().find(|(key, _)| key == name)?;
        match std::mem::take(value) {
            Value::Null => None,
            value => Some(Node { value, at: Pointer::Field(self.at, name) }),
        }
    }

    /// Returns whether a field has a value.
    pub fn has(&self, name: &'static str) -> bool {
        self.entries.iter().any(|(key, value)| key == name && !value.is_null())
    }

    /// Removes a field and returns the change that it describes: a missing field keeps the value, `null` clears it.
    pub fn change<T>(&mut self, name: &'static str, read: impl FnOnce(Node<'p, 'v>) -> Option<T>) -> Change<T> {
        debug_assert!(self.allowed.contains(&name), "{name} is read but not in the list of allowed fields");
        let Some((_, value)) = self.entries.iter_mut().find(|(key, _)| key == name) else { return Change::Keep };
        match std::mem::take(value) {
            Value::Null => Change::Clear,
            value => read(Node { value, at: Pointer::Field(self.at, name) }).map_or(Change::Keep, Change::Set),
        }
    }

    /// Adds a fault if a field that cannot be cleared is `null`.
    pub fn not_null(&self, name: &'static str, faults: &mut Faults) {
        if self.entries.iter().any(|(key, value)| key == name && matches!(value, Value::Null)) {
            let at = Pointer::Field(self.at, name);
            at.fault(faults, Code::InvalidType, "must not be null; leave it out to keep the current value");
        }
    }

    /// Removes and returns a required field, or adds a fault if it is missing.
    pub fn require(&mut self, name: &'static str, faults: &mut Faults) -> Option<Node<'p, 'v>> {
        let node = self.take(name);
        if node.is_none() {
            Pointer::Field(self.at, name).fault(faults, Code::Required, format_args!("`{name}` is required"));
        }
        node
    }
}

fn unknown(at: &Pointer<'_>, name: &str, allowed: &[&'static str], faults: &mut Faults) {
    match suggestion(name, allowed) {
        Some(similar) => at.fault(faults, Code::UnknownField, format_args!("unknown field; did you mean `{similar}`?")),
        None => at.fault(faults, Code::UnknownField, format_args!("unknown field; use one of {}", allowed.join(", "))),
    }
}
