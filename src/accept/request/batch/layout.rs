//! Locates the messages in the body of a batch without parsing them, and reads the other fields of the body.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json_borrow::Value;

use super::{FIELDS, MAX_MESSAGES, Validation};
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::raw_list::{RawList, range};
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Fault, Faults};

/// Maximum number of field names stored: one more than the faults that are reported.
const MAX_NAMES: usize = Faults::LIMIT + 1;
/// The field with the list of messages.
const LIST: &str = "messages";
/// The field that says how faults are handled.
const VALIDATION: &str = "validation";

/// The positions of the messages in a body, and its other fields.
#[derive(Debug)]
pub struct Layout {
    /// The bytes of each message in the text of the body.
    pub(super) messages: Vec<Range<usize>>,
    /// How faults are handled.
    pub validation: Validation,
    /// Whether the body is the array itself.
    is_bare: bool,
    /// The faults outside of the messages.
    pub(super) faults: Vec<Fault>,
}

impl Layout {
    /// Reads a body. Fails if it has no list of 1 to [`MAX_MESSAGES`] values.
    pub fn read(body: &[u8]) -> Result<Self, Rejection> {
        let text = json::text(body)?;
        let is_bare = !text.trim_ascii_start().starts_with('{');
        let Outline { list, validation, names } =
            if is_bare { bare(text) } else { serde_json::from_str(text) }.map_err(|error| json::malformed(&error))?;
        let (mut faults, root) = (Faults::default(), Pointer::Root);
        let object = Value::Object(names.iter().map(|name| (&**name, Value::Null)).collect());
        drop(Fields::open(object, &root, FIELDS, &mut faults));
        let validation = match validation {
            Some(raw) => read_validation(text, raw, &mut faults)?,
            None => Validation::default(),
        };
        let before = faults.len();
        check_list(&list, is_bare, &mut faults);
        let is_valid = faults.len() == before;
        let (faults, items) = (faults.into_vec(), list.items());
        if !is_valid {
            return Err(Rejection::Invalid(faults));
        }
        Ok(Self { messages: items.into_iter().map(|item| range(text, item)).collect(), validation, is_bare, faults })
    }

    /// Returns the number of messages, 1 to [`MAX_MESSAGES`].
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Returns the JSON pointer of the list of messages.
    pub fn list(&self) -> &'static str {
        if self.is_bare { "" } else { "/messages" }
    }

    /// Returns the pointer of a message.
    pub(super) fn pointer(&self, index: usize) -> Pointer<'static> {
        const IN_OBJECT: &Pointer<'static> = &Pointer::Field(&Pointer::Root, LIST);
        Pointer::Index(if self.is_bare { &Pointer::Root } else { IN_OBJECT }, index)
    }
}

/// Adds a fault unless there is a list of 1 to [`MAX_MESSAGES`] values.
fn check_list(list: &List<'_>, is_bare: bool, faults: &mut Faults) {
    let at = if is_bare { Pointer::Root } else { Pointer::Field(&Pointer::Root, LIST) };
    match list {
        RawList::Null if is_bare => at.fault(faults, Code::InvalidType, format_args!("{EXPECTED}, found null")),
        RawList::Null => at.fault(faults, Code::Required, "`messages` is required"),
        RawList::Other(found) if is_bare => {
            at.fault(faults, Code::InvalidType, format_args!("{EXPECTED}, found {found}"));
        }
        RawList::Other(found) => at.fault(faults, Code::InvalidType, format_args!("expected an array, found {found}")),
        RawList::Array { count: 0, .. } => at.fault(faults, Code::Required, "at least one message is required"),
        RawList::Array { count, .. } if *count > MAX_MESSAGES => {
            at.fault(faults, Code::TooMany, format_args!("at most {MAX_MESSAGES} messages are allowed, not {count}"));
        }
        RawList::Array { .. } => {}
    }
}

const EXPECTED: &str = "expected an object with `messages`, or an array of messages";

fn read_validation(text: &str, raw: &RawValue, faults: &mut Faults) -> Result<Validation, Rejection> {
    let value = json::read_part(text, range(text, raw), json::MAX_VALUES)?;
    if value.is_null() {
        return Ok(Validation::default());
    }
    let at = Pointer::Field(&Pointer::Root, VALIDATION);
    let name = Node { value, at }.string(faults);
    Ok(match name.as_deref() {
        None | Some("strict") => Validation::Strict,
        Some("permissive") => Validation::Permissive,
        Some(_) => {
            at.fault(faults, Code::InvalidValue, "use `strict` or `permissive`");
            Validation::default()
        }
    })
}

/// The value that should be the list of messages.
type List<'a> = RawList<'a, MAX_MESSAGES>;

/// The parts of a body.
struct Outline<'a> {
    list: List<'a>,
    validation: Option<&'a RawValue>,
    /// The names of the object's fields, except unknown ones beyond [`MAX_NAMES`].
    names: Vec<Cow<'a, str>>,
}

/// Parses a body that is not an object.
fn bare(text: &str) -> Result<Outline<'_>, serde_json::Error> {
    Ok(Outline { list: serde_json::from_str(text)?, validation: None, names: Vec::new() })
}

impl<'de> Deserialize<'de> for Outline<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(OutlineVisitor)
    }
}

struct OutlineVisitor;

impl<'de> Visitor<'de> for OutlineVisitor {
    type Value = Outline<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut outline = Outline { list: RawList::Null, validation: None, names: Vec::new() };
        let (mut has_list, mut has_validation) = (false, false);
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            let is_first = match &*name {
                LIST if !has_list => {
                    outline.list = map.next_value()?;
                    has_list = true;
                    true
                }
                VALIDATION if !has_validation => {
                    outline.validation = Some(map.next_value()?);
                    has_validation = true;
                    true
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    false
                }
            };
            if is_first || outline.names.len() < MAX_NAMES {
                outline.names.push(name);
            }
        }
        Ok(outline)
    }
}
