//! Renders a [`Draft`] as a message: its header, and its body as a tree of parts (RFC 2046 §5.1, RFC 2387):
//!
//! ```text
//! mixed ─┬─ alternative ─┬─ text
//!        │               └─ related ─┬─ html
//!        │                           └─ inline parts (with a Content-ID), if there is an html part
//!        └─ attachments
//! ```
//!
//! A container with only one part is replaced by the part. The message ends with a line end, even if the text does not.

use std::borrow::Cow;

use super::attachment::File;
use super::content_id;
use super::field::{Field, write_field};
use super::header;
use super::text::Text;
use crate::domain::message::{Attachment, Draft};

/// Capacity in bytes reserved for the DKIM signatures, which are prepended to the message.
const SIGNATURE_CAPACITY: usize = 2 << 10;

/// Renders a message as it is sent after `DATA`, without dot-stuffing.
///
/// Allocates one buffer of the message's size. Custom headers that this module writes itself, `Bcc`, and invalid header
/// names are left out; the API already refuses a message with such headers.
pub fn build(draft: &Draft) -> Vec<u8> {
    // Quoted-printable and base64 cannot contain `=_` (RFC 2045 §6.7), and text that contains the boundary is not sent
    // unencoded.
    let boundary = format!("=_{}", draft.id.0.simple());
    let domain = draft.from.address.domain();
    let ids = || draft.attachments.iter().filter_map(|(file, _)| file.content_id.as_deref());
    let html = draft.content.html.as_deref().map(|html| content_id::complete_links(html, ids(), domain));
    let root = root(draft, html.as_ref(), &boundary);
    let size_limit = header::size_limit(draft) + root.size_limit();
    let mut out = Vec::with_capacity(size_limit + SIGNATURE_CAPACITY);
    header::write(&mut out, draft);
    Bodies { out: &mut out, boundary: &boundary, containers: 0 }.write(&root);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    debug_assert!(out.len() <= size_limit, "{} bytes but {size_limit} were reserved", out.len());
    out
}

/// A node of the body's tree.
enum Part<'a> {
    Text { subtype: &'static str, text: Text<'a> },
    File(File<'a>),
    Container { subtype: &'static str, parts: Vec<Part<'a>> },
}

impl<'a> Part<'a> {
    /// Returns `parts` in a container, or the part itself if there is only one.
    fn container(subtype: &'static str, mut parts: Vec<Part<'a>>) -> Part<'a> {
        match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Part::Container { subtype, parts }
            }
        }
    }

    /// Returns an upper bound of the bytes written.
    fn size_limit(&self) -> usize {
        match self {
            Part::Text { text, .. } => 128 + text.size_limit,
            Part::File(file) => file.size_limit,
            Part::Container { parts, .. } => 256 + parts.iter().map(|part| 64 + part.size_limit()).sum::<usize>(),
        }
    }
}

/// Returns the tree of `draft`'s parts, with `html` as its HTML.
fn root<'a>(draft: &'a Draft, html: Option<&'a Cow<'a, str>>, boundary: &str) -> Part<'a> {
    let text_part = |subtype, text| Part::Text { subtype, text: Text::new(text, boundary) };
    let (content, domain) = (&draft.content, draft.from.address.domain());
    let (inline, attached): (Vec<_>, Vec<_>) =
        draft.attachments.iter().partition(|(file, _)| content.html.is_some() && file.content_id.is_some());
    let files = |list: Vec<&'a (Attachment, Vec<u8>)>| {
        list.into_iter().map(|(file, data)| Part::File(File::new(file, data, domain, boundary)))
    };

    let html = html.map(|html| {
        let mut related = vec![text_part("html", html)];
        related.extend(files(inline));
        Part::container("related", related)
    });
    let text = match (content.text.as_deref(), &html) {
        (None, None) => Some(""),
        (text, _) => text,
    };
    let bodies = text.map(|text| text_part("plain", text)).into_iter().chain(html).collect();
    let mut mixed = vec![Part::container("alternative", bodies)];
    mixed.extend(files(attached));
    Part::container("mixed", mixed)
}

/// Writes the body and numbers the containers, so that each has a unique boundary.
struct Bodies<'a> {
    out: &'a mut Vec<u8>,
    boundary: &'a str,
    containers: usize,
}

impl Bodies<'_> {
    /// Writes a part with its headers, without a final line end.
    fn write(&mut self, part: &Part<'_>) {
        match part {
            Part::File(file) => file.write(self.out),
            Part::Text { subtype, text } => {
                let mut content_type = Field::new(self.out, "Content-Type");
                content_type.word(&["text/", subtype, ";"]);
                content_type.word(&["charset=", text.charset]);
                content_type.end();
                write_field(self.out, "Content-Transfer-Encoding", text.encoding.as_str());
                self.out.extend_from_slice(b"\r\n");
                text.write(self.out);
            }
            Part::Container { subtype, parts } => self.write_container(subtype, parts),
        }
    }

    fn write_container(&mut self, subtype: &str, parts: &[Part<'_>]) {
        self.containers += 1;
        let boundary = format!("{}_{}", self.boundary, self.containers);
        let mut content_type = Field::new(self.out, "Content-Type");
        content_type.word(&["multipart/", subtype, ";"]);
        if subtype == "related" {
            content_type.word(&["type=\"text/html\";"]);
        }
        content_type.word(&["boundary=\"", &boundary, "\""]);
        content_type.end();
        for part in parts {
            self.out.extend_from_slice(b"\r\n--");
            self.out.extend_from_slice(boundary.as_bytes());
            self.out.extend_from_slice(b"\r\n");
            self.write(part);
        }
        self.out.extend_from_slice(b"\r\n--");
        self.out.extend_from_slice(boundary.as_bytes());
        self.out.extend_from_slice(b"--");
    }
}
