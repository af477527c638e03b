//! An object whose field names we know, as against those whose names the sender chose.

use std::borrow::Cow;

use serde_json_borrow::Value;

use super::pointer::{Pointer, cut};
use super::suggestion::suggestion;
use super::walk::Node;
use crate::domain::fault::{Code, Faults};
use crate::domain::limits::Change;

/// Notes that a name stands twice in an object.
pub fn duplicate(at: &Pointer<'_>, name: &str, faults: &mut Faults) {
    at.fault(faults, Code::DuplicateField, format_args!("`{}` stands twice in this object", cut(name)));
}

/// An object whose field names we know. Its unknown and duplicate names are noted when it is opened.
#[derive(Debug)]
pub struct Fields<'p, 'v> {
    entries: Vec<(Cow<'v, str>, Value<'v>)>,
    at: &'p Pointer<'p>,
    known: &'static [&'static str],
}

impl<'p, 'v> Fields<'p, 'v> {
    /// Opens an object that may have the `known` fields (at most 64) and no others.
    pub fn open(
        value: Value<'v>,
        at: &'p Pointer<'p>,
        known: &'static [&'static str],
        faults: &mut Faults,
    ) -> Option<Self> {
        let Value::Object(object) = value else {
            Node { value, at: *at }.wrong_type("an object", faults);
            return None;
        };
        let entries = object.into_vec();
        let mut seen = 0_u64;
        for (name, _) in &entries {
            if faults.is_full() {
                break;
            }
            let here = Pointer::Field(at, name);
            match known.iter().position(|known| known == name) {
                Some(index) if seen & (1 << index) != 0 => duplicate(&here, name, faults),
                Some(index) => seen |= 1 << index,
                None => unknown(&here, name, known, faults),
            }
        }
        Some(Self { entries, at, known })
    }

    /// Takes a field out; `None` where it is missing or `null`. The first of duplicates counts.
    pub fn take(&mut self, name: &'static str) -> Option<Node<'p, 'v>> {
        debug_assert!(self.known.contains(&name), "{name} is read but not in the list of known fields");
        let (_, value) = self.entries.iter_mut().find(|(key, _)| key == name)?;
        match std::mem::take(value) {
            Value::Null => None,
            value => Some(Node { value, at: Pointer::Field(self.at, name) }),
        }
    }

    /// Takes a field that may change something: missing leaves it as it is, `null` takes it away.
    pub fn change<T>(&mut self, name: &'static str, read: impl FnOnce(Node<'p, 'v>) -> Option<T>) -> Change<T> {
        debug_assert!(self.known.contains(&name), "{name} is read but not in the list of known fields");
        let Some((_, value)) = self.entries.iter_mut().find(|(key, _)| key == name) else { return Change::Keep };
        match std::mem::take(value) {
            Value::Null => Change::Clear,
            value => read(Node { value, at: Pointer::Field(self.at, name) }).map_or(Change::Keep, Change::Set),
        }
    }

    /// Notes where a field is `null` that has nothing to go back to.
    pub fn not_null(&self, name: &'static str, faults: &mut Faults) {
        if self.entries.iter().any(|(key, value)| key == name && matches!(value, Value::Null)) {
            let at = Pointer::Field(self.at, name);
            at.fault(faults, Code::InvalidType, "give a value, or leave it out to keep the one there is");
        }
    }

    /// Takes a field that must be there.
    pub fn require(&mut self, name: &'static str, faults: &mut Faults) -> Option<Node<'p, 'v>> {
        let node = self.take(name);
        if node.is_none() {
            Pointer::Field(self.at, name).fault(faults, Code::Required, format_args!("`{name}` is required"));
        }
        node
    }
}

fn unknown(at: &Pointer<'_>, name: &str, known: &[&'static str], faults: &mut Faults) {
    match suggestion(name, known) {
        Some(meant) => at.fault(faults, Code::UnknownField, format_args!("unknown field; did you mean `{meant}`?")),
        None => at.fault(faults, Code::UnknownField, format_args!("unknown field; known are {}", known.join(", "))),
    }
}
