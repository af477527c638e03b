//! A long JSON array whose items are located without parsing them, so that they can be parsed one by one.

use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// A value that should be an array of at most `MAX` items.
#[derive(Debug)]
pub enum RawList<'a, const MAX: usize> {
    /// The value is missing or `null`.
    Null,
    /// The value is an array.
    Array {
        /// The first items, at most one more than allowed.
        items: Vec<&'a RawValue>,
        /// The number of all items.
        count: usize,
    },
    /// A value of another type.
    Other(&'static str),
}

impl<'a, const MAX: usize> RawList<'a, MAX> {
    pub(in crate::accept::request) fn items(self) -> Vec<&'a RawValue> {
        if let Self::Array { items, .. } = self { items } else { Vec::new() }
    }
}

impl<'de, const MAX: usize> Deserialize<'de> for RawList<'de, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListVisitor)
    }
}

/// Returns the position of `part` in `text`, of which it is a slice.
pub(in crate::accept::request) fn range(text: &str, part: &RawValue) -> Range<usize> {
    let start = part.get().as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start + part.get().len()
}

struct ListVisitor<const MAX: usize>;

impl<'de, const MAX: usize> Visitor<'de> for ListVisitor<MAX> {
    type Value = RawList<'de, MAX>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(RawList::Other("a boolean"))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(RawList::Other("a number"))
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(RawList::Other("a number"))
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(RawList::Other("a number"))
    }

    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(RawList::Other("a string"))
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(RawList::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(RawList::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while items.len() <= MAX {
            let Some(item) = sequence.next_element::<&RawValue>()? else {
                let count = items.len();
                return Ok(RawList::Array { items, count });
            };
            items.push(item);
        }
        let mut count = items.len();
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok(RawList::Array { items, count })
    }
}
