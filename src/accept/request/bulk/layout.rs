//! Locates the recipients in the body of a bulk without parsing them.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json_borrow::Value;

use super::RECIPIENTS;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::raw_list::{RawList, range};
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::bulk::MAX_RECIPIENTS;

/// Maximum number of fields that are stored. A bulk has fewer, so a longer body contains unknown or duplicate fields, of
/// which at least the first one is stored and reported.
const MAX_FIELDS: usize = 64;

/// Where the recipients of a body are.
#[derive(Debug)]
pub struct Layout {
    /// The bytes of each recipient in the text of the body.
    pub(super) recipients: Vec<Range<usize>>,
    /// The name of each other field, and the bytes of its value.
    others: Vec<(String, Range<usize>)>,
}

impl Layout {
    /// Reads a body. Fails if it has no list of 1 to [`MAX_RECIPIENTS`] values in `recipients`.
    pub fn read(body: &[u8]) -> Result<Self, Rejection> {
        let text = json::text(body)?;
        if !text.trim_ascii_start().starts_with('{') {
            let mut faults = Faults::default();
            let message = "expected an object with the message and `recipients`";
            Pointer::Root.fault(&mut faults, Code::InvalidType, message);
            // A body that is no JSON at all is malformed.
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| json::malformed(&error))?;
            return Err(Rejection::Invalid(faults.into_vec()));
        }
        let Body { list, others } = serde_json::from_str(text).map_err(|error| json::malformed(&error))?;
        let mut faults = Faults::default();
        check_list(&list, &mut faults);
        if !faults.is_empty() {
            return Err(Rejection::Invalid(faults.into_vec()));
        }
        let recipients = list.items().into_iter().map(|item| range(text, item)).collect();
        let others = others.into_iter().map(|(name, value)| (name.into_owned(), range(text, value))).collect();
        Ok(Self { recipients, others })
    }

    /// Returns the number of recipients, 1 to [`MAX_RECIPIENTS`].
    pub fn count(&self) -> usize {
        self.recipients.len()
    }

    /// Parses the fields of the body other than `recipients`.
    pub(super) fn message<'a>(&'a self, text: &'a str) -> Result<Value<'a>, Rejection> {
        let read = |(name, range): &'a (String, Range<usize>)| {
            Ok((name.as_str(), json::read_part(text, range.clone(), json::MAX_VALUES)?))
        };
        Ok(Value::Object(self.others.iter().map(read).collect::<Result<Vec<_>, Rejection>>()?.into_iter().collect()))
    }
}

/// The value of `recipients`.
type List<'a> = RawList<'a, MAX_RECIPIENTS>;

/// Adds a fault unless there is a list of 1 to [`MAX_RECIPIENTS`] values.
fn check_list(list: &List<'_>, faults: &mut Faults) {
    let at = Pointer::Field(&Pointer::Root, RECIPIENTS);
    match list {
        RawList::Null => at.fault(faults, Code::Required, "`recipients` is required"),
        RawList::Other(found) => at.fault(faults, Code::InvalidType, format_args!("expected an array, found {found}")),
        RawList::Array { count: 0, .. } => at.fault(faults, Code::Required, "at least one recipient is required"),
        RawList::Array { count, .. } if *count > MAX_RECIPIENTS => {
            let message =
                format_args!("at most {MAX_RECIPIENTS} recipients are allowed, not {count}; send several bulks");
            at.fault(faults, Code::TooMany, message);
        }
        RawList::Array { .. } => {}
    }
}

/// The parts of a body.
struct Body<'a> {
    list: List<'a>,
    /// The other fields, and any further `recipients`.
    others: Vec<(Cow<'a, str>, &'a RawValue)>,
}

impl<'de> Deserialize<'de> for Body<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(BodyVisitor)
    }
}

struct BodyVisitor;

impl<'de> Visitor<'de> for BodyVisitor {
    type Value = Body<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut body = Body { list: RawList::Null, others: Vec::new() };
        let mut has_list = false;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name == RECIPIENTS && !has_list {
                body.list = map.next_value()?;
                has_list = true;
            } else if body.others.len() < MAX_FIELDS {
                body.others.push((name, map.next_value()?));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(body)
    }
}
