//! Query parameters and path ids. All faults of the parameters are reported at once, and unknown names are refused.

use std::collections::BTreeMap;
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use chrono::{DateTime, Utc};

use crate::accept::request::json::pointer::cut;
use crate::accept::request::json::suggestion::suggestion;
use crate::domain::api::fault::{Code, Faults};
use crate::http::ApiError;
use crate::http::page::{DEFAULT_LIMIT, MAX_LIMIT};

/// The query parameters of one request, by name.
#[derive(Debug)]
pub(in crate::http) struct Params {
    /// The values of the parameters that have not been read yet.
    remaining: BTreeMap<String, Vec<String>>,
    /// The names that the endpoint reads, for the error about an unknown one.
    read: Vec<&'static str>,
    faults: Faults,
}

impl<S: Sync> FromRequestParts<S> for Params {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let mut params = Self { remaining: BTreeMap::new(), read: Vec::new(), faults: Faults::default() };
        // With lossy decoding, a search would look for a text that the client did not send.
        if percent_encoding::percent_decode_str(parts.uri.query().unwrap_or_default()).decode_utf8().is_err() {
            return Err(ApiError::Malformed("The query string must be percent-encoded UTF-8.".into()));
        }
        for (name, value) in url::form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes()) {
            if value.contains('\0') {
                params.faults.push(name.as_ref(), Code::ControlCharacter, "NUL is not allowed here.");
            } else {
                params.remaining.entry(name.into_owned()).or_default().push(value.into_owned());
            }
        }
        Ok(params)
    }
}

impl Params {
    /// Returns a parameter's text; an empty one counts as absent.
    pub(in crate::http) fn text(&mut self, name: &'static str) -> Option<String> {
        if self.remaining.is_empty() {
            return None;
        }
        let mut values = self.all(name).into_iter();
        let first = values.next();
        if values.next().is_some() {
            self.faults.push(name, Code::DuplicateField, "Duplicate parameter; pass it once.");
        }
        first.filter(|value| !value.is_empty())
    }

    /// Returns whether there are no parameters left to read.
    pub(in crate::http) fn is_empty(&self) -> bool {
        self.remaining.is_empty()
    }

    /// Adds a fault for each of these parameters that is given, with the same message.
    pub(in crate::http) fn refuse(&mut self, names: impl Iterator<Item = &'static str>, message: &str) {
        for name in names {
            if !self.all(name).is_empty() {
                self.faults.push(name, Code::UnknownField, message);
            }
        }
    }

    /// Returns all values of a parameter that may be repeated, including empty ones.
    pub(in crate::http) fn all(&mut self, name: &'static str) -> Vec<String> {
        self.read.push(name);
        self.remaining.remove(name).unwrap_or_default()
    }

    /// Returns a parameter parsed by `read`; adds a fault with `hint` if it is invalid.
    pub(in crate::http) fn read<T>(
        &mut self,
        name: &'static str,
        hint: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.text(name)?;
        let value = read(&text);
        if value.is_none() {
            self.faults.push(name, Code::InvalidValue, hint);
        }
        value
    }

    /// Returns an RFC 3339 timestamp.
    pub(in crate::http) fn timestamp(&mut self, name: &'static str) -> Option<DateTime<Utc>> {
        // A `+` in the offset arrives as a space if the client does not encode it.
        self.read(name, "Pass an RFC 3339 timestamp such as 2026-12-01T09:00:00Z.", |text| {
            let time = DateTime::parse_from_rfc3339(&text.replace(' ', "+")).ok()?.to_utc();
            // The range that Postgres and the ids support.
            (1970..9999).contains(&chrono::Datelike::year(&time)).then_some(time)
        })
    }

    /// Returns the page size.
    pub(in crate::http) fn limit(&mut self) -> i64 {
        self.read("limit", "Pass a number from 1 to 100.", |text| {
            text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit))
        })
        .unwrap_or(DEFAULT_LIMIT)
    }

    /// Fails if any parameter that was read is invalid; ignores the others.
    pub(in crate::http) fn finish_ignoring_unknown(self) -> Result<(), ApiError> {
        if self.faults.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.faults.into_vec())) }
    }

    /// Fails if any parameter was unknown or invalid.
    pub(in crate::http) fn finish(mut self) -> Result<(), ApiError> {
        for name in self.remaining.into_keys() {
            let message = unknown(&name, &self.read);
            self.faults.push(cut(&name), Code::UnknownField, message);
        }
        if self.faults.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.faults.into_vec())) }
    }
}

/// Returns the error text of an unknown parameter of an endpoint with the `known` ones.
fn unknown(name: &str, known: &[&'static str]) -> String {
    if known.is_empty() {
        return "Unknown parameter; this endpoint has none.".into();
    }
    let names = known.join("`, `");
    match suggestion(name, known) {
        Some(similar) => format!("Unknown parameter; did you mean `{similar}`? Use one of `{names}`."),
        None => format!("Unknown parameter; use one of `{names}`."),
    }
}

/// An id in the path. An invalid id returns 404.
#[derive(Debug)]
pub(in crate::http) struct PathId<T>(pub T);

impl<S: Send + Sync, T: FromStr + Send> FromRequestParts<S> for PathId<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let missing = ApiError::NotFound("Nothing has this id.");
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else { return Err(missing) };
        text.parse().map(Self).map_err(|_| missing)
    }
}
