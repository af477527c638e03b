//! Alternatives to the text and the HTML: invitations (`text/calendar; method=REQUEST`, RFC 6047 §2.4), AMP
//! (`text/x-amp-html`) and similar types.
//!
//! An alternative is a part of `multipart/alternative` without a disposition and a name: Outlook and Gmail offer to
//! accept an invitation only in this form, and show one with a disposition as a file. Its charset is always declared,
//! and it is always encoded in 7 bits.

use super::attachment::{OPAQUE, essence, media_type};
use super::text::Text;
use crate::domain::message::{Attachment, AttachmentRole};
use crate::mail::header::field::{Field, write_field};

/// The type of invitations.
const CALENDAR: &str = "text/calendar";
/// The type of AMP.
const AMP: &str = "text/x-amp-html";

/// An alternative as a MIME part.
#[derive(Debug)]
pub(in crate::mail) struct Alternative<'a> {
    content_type: String,
    text: Text<'a>,
    /// Upper bound of the bytes written.
    pub(in crate::mail) size_limit: usize,
}

impl<'a> Alternative<'a> {
    /// Creates the part for a file whose role is alternative. Returns `None` for any other file, and for one that is
    /// not UTF-8; the caller then sends it as a file.
    pub(in crate::mail) fn new(file: &Attachment, data: &'a [u8], boundary: &str) -> Option<Self> {
        let given = media_type(&file.content_type);
        if file.role != AttachmentRole::Alternative || given == OPAQUE {
            return None;
        }
        let text = Text::new(std::str::from_utf8(data).ok()?, boundary);
        let content_type = with_utf8(given);
        let size_limit = 128 + content_type.len() * 2 + text.size_limit;
        Some(Self { content_type, text, size_limit })
    }

    /// Returns whether the part comes after the HTML. Clients show the last part whose type they know; Gmail and
    /// Outlook expect an invitation last, and AMP before the HTML.
    pub(in crate::mail) fn follows_html(&self) -> bool {
        essence(&self.content_type).eq_ignore_ascii_case(CALENDAR)
    }

    /// Writes the part: its headers, an empty line and the text, without a final line end.
    pub(in crate::mail) fn write(&self, out: &mut Vec<u8>) {
        let mut content_type = Field::new(out, "Content-Type");
        content_type.words(&self.content_type);
        content_type.end();
        write_field(out, "Content-Transfer-Encoding", self.text.encoding.as_str());
        out.extend_from_slice(b"\r\n");
        self.text.write(out);
    }
}

/// Returns a media type with the charset UTF-8 as its first parameter.
fn with_utf8(content_type: &str) -> String {
    let mut declared = format!("{}; charset=utf-8", essence(content_type));
    for (name, parameter) in parameters(content_type).filter(|(name, _)| !name.eq_ignore_ascii_case("charset")) {
        if !name.is_empty() {
            declared.push_str("; ");
            declared.push_str(parameter);
        }
    }
    declared
}

/// Returns the parameters of a media type, each with its name.
fn parameters(content_type: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut is_quoted = false;
    let mut is_escaped = false;
    let pieces = content_type.split(move |c: char| {
        let is_end = c == ';' && !is_quoted;
        if c == '"' && !is_escaped {
            is_quoted = !is_quoted;
        }
        is_escaped = c == '\\' && is_quoted && !is_escaped;
        is_end
    });
    pieces.skip(1).map(|piece| (piece.split('=').next().unwrap_or_default().trim(), piece.trim()))
}

/// Returns the value of a parameter without its quotes.
fn parameter<'c>(content_type: &'c str, name: &str) -> Option<&'c str> {
    let (_, parameter) = parameters(content_type).find(|(found, _)| found.eq_ignore_ascii_case(name))?;
    Some(parameter.split_once('=')?.1.trim().trim_matches('"'))
}

/// Returns whether a media type has the charset UTF-8, or none, or ASCII, which UTF-8 includes.
pub fn is_utf8(content_type: &str) -> bool {
    let is = |charset: &str| ["utf-8", "utf8", "us-ascii"].iter().any(|known| known.eq_ignore_ascii_case(charset));
    parameter(content_type, "charset").is_none_or(is)
}

/// Returns whether a media type is `text/calendar` without the parameter `method`, which clients need to offer a
/// response to an invitation.
pub fn lacks_method(content_type: &str) -> bool {
    essence(content_type).eq_ignore_ascii_case(CALENDAR) && parameter(content_type, "method").is_none_or(str::is_empty)
}

/// Returns whether content of this media type is an alternative to the text and not a file: an invitation or AMP.
pub fn is_alternative(content_type: &str) -> bool {
    let is = |kind: &str| essence(content_type).eq_ignore_ascii_case(kind);
    is_utf8(content_type) && (is(AMP) || (is(CALENDAR) && !lacks_method(content_type)))
}

/// Returns whether two media types are the same, apart from their parameters.
pub fn is_same_type(one: &str, other: &str) -> bool {
    essence(one).eq_ignore_ascii_case(essence(other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invitations_and_amp_are_alternatives() {
        for good in [
            "text/calendar; method=REQUEST",
            "TEXT/Calendar;charset=UTF-8;Method=\"CANCEL\"",
            "text/calendar; name=\"a;b\"; method=REPLY",
            "text/x-amp-html",
        ] {
            assert!(is_alternative(good), "{good}");
        }
        for other in [
            "text/calendar",
            "text/calendar; method=",
            "text/calendar; name=\";method=REQUEST\"",
            "text/calendar; method=REQUEST; charset=iso-8859-1",
            "application/ics; method=REQUEST",
            "text/html",
        ] {
            assert!(!is_alternative(other), "{other}");
        }
    }

    #[test]
    fn charset_is_always_declared_and_first() {
        for (given, declared) in [
            ("text/calendar;method=REQUEST", "text/calendar; charset=utf-8; method=REQUEST"),
            ("text/calendar; method=REQUEST; CHARSET=us-ascii;", "text/calendar; charset=utf-8; method=REQUEST"),
            ("text/x-amp-html", "text/x-amp-html; charset=utf-8"),
            ("text/a; b=\"c;\\\"d\"", "text/a; charset=utf-8; b=\"c;\\\"d\""),
        ] {
            assert_eq!(with_utf8(given), declared);
        }
    }

    #[test]
    fn alternative_has_no_disposition_and_is_7bit() {
        let part = |data: &[u8]| {
            let file = Attachment {
                filename: "invite.ics".into(),
                content_type: "text/calendar; method=REQUEST".into(),
                role: AttachmentRole::Alternative,
                ..Attachment::default()
            };
            let part = Alternative::new(&file, data, "=_boundary")?;
            let mut out = Vec::new();
            part.write(&mut out);
            assert!(out.len() <= part.size_limit && part.follows_html());
            Some(String::from_utf8(out).unwrap())
        };
        assert_eq!(
            part(b"BEGIN:VCALENDAR\nEND:VCALENDAR\n").as_deref(),
            Some(
                "Content-Type: text/calendar; charset=utf-8; method=REQUEST\r\nContent-Transfer-Encoding: 7bit\r\n\r\n\
                 BEGIN:VCALENDAR\r\nEND:VCALENDAR\r\n"
            )
        );
        assert!(part("SUMMARY:Frühstück in Köln und anderswo\n".as_bytes()).is_some_and(|part| part.is_ascii()));
        assert_eq!(part(b"SUMMARY:Fr\xfchst\xfcck"), None, "it is sent as a file");
    }
}
