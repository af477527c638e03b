//! Faults of a request: the `errors` of a problem (RFC 9457), with JSON pointers (RFC 6901) and codes.
//!
//! The codes ([`Code`]) are part of the API: clients branch on them, so codes may be added, but never renamed.

use serde::Serialize;

use crate::domain::words::words;

words! {
    /// The kind of fault. New codes may be added.
    pub enum Code as "FaultCode" {
        /// A required value is missing, `null` or empty.
        Required = "required",
        /// The value does not have the expected JSON type.
        InvalidType = "invalid_type",
        /// The object has no field of this name.
        UnknownField = "unknown_field",
        /// The object has two fields of this name.
        DuplicateField = "duplicate_field",
        /// The value appears twice in a list that allows no duplicates.
        DuplicateValue = "duplicate_value",
        /// The text has more characters than allowed.
        TooLong = "too_long",
        /// There are more values than allowed.
        TooMany = "too_many",
        /// The values together take more bytes than allowed.
        TooLarge = "too_large",
        /// The text has a CR, LF, NUL or other control character that is not allowed.
        ControlCharacter = "control_character",
        /// The text is not an email address.
        InvalidAddress = "invalid_address",
        /// The text is not a valid header name.
        InvalidHeader = "invalid_header",
        /// Postrider sets this header itself, or from another field.
        ForbiddenHeader = "forbidden_header",
        /// The text is not base64 in the standard alphabet with padding.
        InvalidBase64 = "invalid_base64",
        /// The text is not a valid media type for an attachment.
        InvalidContentType = "invalid_content_type",
        /// The text is not an RFC 3339 time, or the time is out of range.
        InvalidTimestamp = "invalid_timestamp",
        /// There is no stream of this name.
        UnknownStream = "unknown_stream",
        /// There is no tenant with this id, or it is being deleted.
        UnknownTenant = "unknown_tenant",
        /// No file with this SHA-256 is stored: it was not uploaded, or was deleted because no message used it.
        UnknownBlob = "unknown_blob",
        /// The request is not a form, or the form has no part of this name.
        UnknownPart = "unknown_part",
        /// No attachment refers to this part of the form.
        UnusedPart = "unused_part",
        /// The body does not have the SHA-256 in the path.
        DigestMismatch = "digest_mismatch",
        /// There is no message with this id from a sender that the API key may use.
        UnknownMessage = "unknown_message",
        /// There is no template with this id or alias, or no published version with this number.
        UnknownTemplate = "unknown_template",
        /// The template has no published version yet.
        NotPublished = "not_published",
        /// The template cannot be parsed or processed; the message has the line and column.
        InvalidTemplate = "invalid_template",
        /// The MJML is not valid.
        InvalidMjml = "invalid_mjml",
        /// The template uses a variable that it does not declare.
        UndeclaredVariable = "undeclared_variable",
        /// There is no published template of this name, or it cannot serve as a layout.
        UnknownLayout = "unknown_layout",
        /// Templates extend or include each other, or blocks contain each other.
        LayoutCycle = "layout_cycle",
        /// The template cannot be rendered with these variables.
        RenderFailed = "render_failed",
        /// Rendering the template takes more work, or produces more output, than allowed.
        TooExpensive = "too_expensive",
        /// The value is not allowed; the message says which values are.
        InvalidValue = "invalid_value",
        /// The search took too long; the message says how to narrow it.
        TooBroad = "too_broad",
        /// The text is not a valid http or https URL.
        InvalidUrl = "invalid_url",
        /// The URL's host has no address that may be contacted; the message says why.
        DeniedAddress = "denied_address",
        /// Messages from this domain are refused until it is registered and its records are verified.
        UnverifiedDomain = "unverified_domain",
        /// The feature is not available in this version.
        NotAvailable = "not_available",
        /// The API key lacks a scope; the message names it.
        Forbidden = "forbidden",
        /// The request needs a setting that is not configured; the message names it.
        NotConfigured = "not_configured",
        /// The message's `idempotency_key` was used with a different message.
        IdempotencyKeyReused = "idempotency_key_reused",
        /// A request with the message's `idempotency_key` is still in progress; repeat the message later.
        IdempotencyKeyInFlight = "idempotency_key_in_flight",
        /// The message was sent from SQL, and has more recipients than the tenant's quota of a day; the message says how many.
        DailyQuotaExceeded = "daily_quota_exceeded",
        /// There are more faults than the response lists.
        TooManyFaults = "too_many_faults",
    }
}

impl From<Code> for &'static str {
    fn from(code: Code) -> Self {
        code.as_str()
    }
}

/// A fault in the request's body, headers or query string.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Fault {
    /// A JSON pointer to the invalid value, such as `/to/0`; or the name of the query parameter, the HTTP header, the part
    /// of a form, or the header field of a MIME message.
    #[schema(example = "/to/0")]
    pub pointer: String,
    /// A stable, machine-readable code, such as `invalid_address`.
    #[schema(value_type = Code, example = "invalid_address")]
    pub code: &'static str,
    /// What is wrong, and how to fix it.
    #[schema(example = "an address must contain an @")]
    pub message: String,
}

impl Fault {
    /// Formats the fault and its pointer as a sentence, such as "`/to/0`: an address must contain an @."
    pub fn sentence(&self) -> String {
        let message = self.message.trim_end();
        let stop = if message.ends_with(['.', '?', '!', '…']) { "" } else { "." };
        if self.pointer.is_empty() {
            return format!("{message}{stop}");
        }
        format!("`{}`: {message}{stop}", self.pointer)
    }
}

/// Collects the faults of one request, so that the response lists all of them.
///
/// Stores only the first faults up to a limit, so that the response to a large invalid request stays short.
#[derive(Debug)]
pub struct Faults {
    listed: Vec<Fault>,
    dropped: usize,
    limit: usize,
}

impl Default for Faults {
    /// Creates an empty list of at most [`Faults::LIMIT`] faults.
    fn default() -> Self {
        Self::with_limit(Self::LIMIT)
    }
}

impl Faults {
    /// The maximum number of faults listed for one object.
    pub const LIMIT: usize = 100;

    /// Creates an empty list of at most `limit` faults.
    pub fn with_limit(limit: usize) -> Self {
        Self { listed: Vec::new(), dropped: 0, limit }
    }

    /// Adds a fault.
    pub fn push(&mut self, pointer: impl Into<String>, code: impl Into<&'static str>, message: impl Into<String>) {
        if self.listed.len() < self.limit {
            self.listed.push(Fault { pointer: pointer.into(), code: code.into(), message: message.into() });
        } else {
            self.dropped += 1;
        }
    }

    /// Returns whether there are no faults.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    /// Returns the number of faults added, including those beyond the limit.
    pub fn len(&self) -> usize {
        self.listed.len() + self.dropped
    }

    /// Returns whether the list is full and incomplete, so that further checks are pointless.
    pub fn is_full(&self) -> bool {
        self.dropped > 0
    }

    /// Returns the faults in the order in which they were added. If some were dropped, the last entry says so.
    pub fn into_vec(self) -> Vec<Fault> {
        self.into_vec_at(String::new())
    }

    /// Like [`into_vec`](Self::into_vec), for the faults of the object at `pointer`.
    pub fn into_vec_at(mut self, pointer: String) -> Vec<Fault> {
        if self.is_full() {
            let message = format!("only the first {} faults are listed; fix these to see the rest", self.limit);
            self.listed.push(Fault { pointer, code: Code::TooManyFaults.as_str(), message });
        }
        self.listed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_has_the_pointer_and_one_full_stop() {
        let sentence = |pointer: &str, message: &str| {
            Fault { pointer: pointer.into(), code: "required", message: message.into() }.sentence()
        };
        assert_eq!(sentence("/to/0", "not an address"), "`/to/0`: not an address.");
        assert_eq!(sentence("limit", "Give a number."), "`limit`: Give a number.");
        assert_eq!(sentence("/send_at", "did you mean `x`?"), "`/send_at`: did you mean `x`?");
        assert_eq!(sentence("", "expected an object"), "expected an object.");
    }

    #[test]
    fn truncated_list_ends_with_a_note() {
        let mut faults = Faults::default();
        for index in 0..Faults::LIMIT + 5 {
            faults.push(format!("/{index}"), Code::Required, "is missing");
        }
        assert!(faults.is_full());
        assert_eq!(faults.len(), Faults::LIMIT + 5);
        let list = faults.into_vec();
        assert_eq!(list.len(), Faults::LIMIT + 1);
        assert_eq!(list[Faults::LIMIT].code, "too_many_faults");
    }

    #[test]
    fn full_but_complete_list_has_no_note() {
        let mut faults = Faults::default();
        for _ in 0..Faults::LIMIT {
            faults.push("", "required", "is missing");
        }
        assert!(!faults.is_full());
        assert_eq!(faults.into_vec().len(), Faults::LIMIT);
    }
}
