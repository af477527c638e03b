//! Typed access to a JSON tree. Every value is read with its JSON pointer (RFC 6901). An invalid value adds a fault and
//! is skipped, so that all faults of the body are reported.
//!
//! `null` is treated like a missing field. Functions return `None` exactly when the value is absent or a fault was
//! added.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json_borrow::Value;

use super::fields::duplicate;
use super::pointer::Pointer;
use crate::config;
use crate::domain::api::fault::{Code, Faults};

/// A value and its position.
#[derive(Debug)]
pub struct Node<'p, 'v> {
    /// The value; owned, so that a string with escapes is moved and not copied.
    pub value: Value<'v>,
    /// The value's position in the body.
    pub at: Pointer<'p>,
}

impl<'v> Node<'_, 'v> {
    /// Creates the node of the whole body.
    pub fn root(value: Value<'v>) -> Self {
        Self { value, at: Pointer::Root }
    }

    /// Adds a fault because the value is not of the type `expected`, such as `a string`.
    pub fn wrong_type(&self, expected: &str, faults: &mut Faults) {
        let found = match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Str(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        };
        self.at.fault(faults, Code::InvalidType, format_args!("expected {expected}, found {found}"));
    }

    /// Returns a string.
    pub fn string(self, faults: &mut Faults) -> Option<Cow<'v, str>> {
        if let Value::Str(text) = self.value {
            return Some(text);
        }
        self.wrong_type("a string", faults);
        None
    }

    /// Returns a boolean.
    pub fn boolean(self, faults: &mut Faults) -> Option<bool> {
        if let Value::Bool(value) = self.value {
            return Some(value);
        }
        self.wrong_type("true or false", faults);
        None
    }

    /// Returns an integer within `range`, in the type of its column.
    pub fn whole<T: TryFrom<u64>>(self, range: RangeInclusive<u64>, faults: &mut Faults) -> Option<T> {
        let Value::Number(number) = self.value else {
            self.wrong_type("a number", faults);
            return None;
        };
        let value = number.as_u64().filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            let message = format_args!("must be a whole number from {} to {}", range.start(), range.end());
            self.at.fault(faults, Code::InvalidValue, message);
        }
        value
    }

    /// Returns a number within `range`.
    pub fn number(self, range: RangeInclusive<f64>, faults: &mut Faults) -> Option<f64> {
        let Value::Number(number) = self.value else {
            self.wrong_type("a number", faults);
            return None;
        };
        let value = number.as_f64().filter(|value| range.contains(value));
        if value.is_none() {
            let message = format_args!("must be a number from {} to {}", range.start(), range.end());
            self.at.fault(faults, Code::InvalidValue, message);
        }
        value
    }

    /// Returns whole seconds within `range`, given as a number or as a duration such as `90s`, `5m` or `1h30m`.
    pub fn seconds(self, range: RangeInclusive<Duration>, faults: &mut Faults) -> Option<i32> {
        let at = self.at;
        let duration = match self.value {
            Value::Number(number) => number.as_u64().map(Duration::from_secs),
            Value::Str(text) => config::duration(&text),
            _ => {
                self.wrong_type("a duration such as \"5m\", or seconds", faults);
                return None;
            }
        };
        let whole = duration.filter(|time| range.contains(time) && time.subsec_nanos() == 0);
        let seconds = whole.and_then(|time| i32::try_from(time.as_secs()).ok());
        if seconds.is_none() {
            let (least, most) = (config::duration_text(*range.start()), config::duration_text(*range.end()));
            let message =
                format_args!("must be a duration such as 90s, 5m or 1h30m, or seconds, from {least} to {most}");
            at.fault(faults, Code::InvalidValue, message);
        }
        seconds
    }

    /// Returns whether the value is exactly this text.
    pub fn is_text(&self, text: &str) -> bool {
        matches!(&self.value, Value::Str(value) if *value == text)
    }

    /// Returns a text of several lines, with any line ends, but without NUL, which Postgres cannot store.
    pub fn prose(self, faults: &mut Faults) -> Option<String> {
        let at = self.at;
        let text = self.string(faults)?;
        if memchr::memchr(0, text.as_bytes()).is_some() {
            at.fault(faults, Code::ControlCharacter, "must not contain NUL (U+0000)");
            return None;
        }
        Some(text.into_owned())
    }

    /// Returns a text on one line, without control characters, whose length in characters is within `length`.
    pub fn line(self, length: RangeInclusive<usize>, faults: &mut Faults) -> Option<Cow<'v, str>> {
        let at = self.at;
        let text = self.string(faults)?;
        one_line(&text, &at, length, faults).then_some(text)
    }

    /// Visits the elements of an array. More than `limit` elements add the fault `why`, and the rest is not visited.
    pub fn each(
        self,
        limit: usize,
        why: fmt::Arguments<'_>,
        faults: &mut Faults,
        mut visit: impl FnMut(Node<'_, 'v>, &mut Faults),
    ) {
        let Value::Array(items) = self.value else {
            return self.wrong_type("an array", faults);
        };
        if items.len() > limit {
            self.at.fault(faults, Code::TooMany, format_args!("{why}, not {}", items.len()));
        }
        for (index, value) in items.into_iter().take(limit).enumerate() {
            if faults.is_full() {
                return;
            }
            visit(Node { value, at: Pointer::Index(&self.at, index) }, faults);
        }
    }

    /// Visits the elements of an array, or the value itself if it is not an array.
    pub fn one_or_each(
        self,
        limit: usize,
        why: fmt::Arguments<'_>,
        faults: &mut Faults,
        mut visit: impl FnMut(Node<'_, 'v>, &mut Faults),
    ) {
        match self.value {
            Value::Array(_) => self.each(limit, why, faults, visit),
            _ if limit == 0 => self.at.fault(faults, Code::TooMany, format_args!("{why}")),
            _ => visit(self, faults),
        }
    }

    /// Visits the entries of an object whose names the client chooses. More than `limit` entries add the fault `why`.
    pub fn each_entry(
        self,
        limit: usize,
        why: fmt::Arguments<'_>,
        faults: &mut Faults,
        mut visit: impl FnMut(&str, Node<'_, 'v>, &mut Faults),
    ) {
        let Value::Object(object) = self.value else {
            return self.wrong_type("an object", faults);
        };
        if object.len() > limit {
            self.at.fault(faults, Code::TooMany, format_args!("{why}, not {}", object.len()));
        }
        let mut visited: Vec<Cow<'v, str>> = Vec::with_capacity(object.len().min(limit));
        for (name, value) in object.into_vec().into_iter().take(limit) {
            if faults.is_full() {
                return;
            }
            let at = Pointer::Field(&self.at, &name);
            // Linear, but over at most `limit` names.
            if visited.contains(&name) {
                duplicate(&at, &name, faults);
            } else {
                visit(&name, Node { value, at }, faults);
                visited.push(name);
            }
        }
    }
}

/// Returns whether a text has no control character and a length within bounds. Adds a fault if not.
pub fn one_line(text: &str, at: &Pointer<'_>, length: RangeInclusive<usize>, faults: &mut Faults) -> bool {
    if let Some((index, c)) = text.chars().enumerate().find(|(_, c)| c.is_control()) {
        let message =
            format_args!("must not contain the control character U+{:04X} (at character {index})", u32::from(c));
        at.fault(faults, Code::ControlCharacter, message);
        return false;
    }
    if text.is_empty() && *length.start() > 0 {
        at.fault(faults, Code::Required, "must not be empty");
        return false;
    }
    // A text has at least as many bytes as characters, so most need no counting.
    if text.len() > *length.end() && text.chars().count() > *length.end() {
        at.fault(faults, Code::TooLong, format_args!("must have at most {} characters", length.end()));
        return false;
    }
    true
}
