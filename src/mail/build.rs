//! Renders a [`Draft`] as a message: its header, and its body as a tree of parts (RFC 2046 §5.1, RFC 2387):
//!
//! ```text
//! mixed ─┬─ alternative ─┬─ text
//!        │               ├─ AMP and similar alternatives
//!        │               ├─ related ─┬─ html
//!        │               │           └─ inline parts (with a Content-ID), if there is an html part
//!        │               └─ an invitation
//!        └─ attachments
//! ```
//!
//! A container with only one part is replaced by the part. The message ends with a line end, even if the text does not.
//! A container with an 8-bit part is declared as `8bit` (RFC 2045 §6.4).

use std::borrow::Cow;

use super::body::alternative::Alternative;
use super::body::attachment::File;
use super::body::content_id;
use super::body::text::Text;
use super::header::field::{Field, write_field};
use super::{header, raw};
use crate::domain::message::Draft;

/// Capacity in bytes reserved for the DKIM signatures, which are prepended to the message.
pub(super) const SIGNATURE_CAPACITY: usize = 2 << 10;

/// Renders a message as it is sent after `DATA`, without dot-stuffing.
///
/// Allocates one buffer of the message's size. Custom headers that this module writes itself, `Bcc`, and invalid header
/// names are left out; the API already refuses a message with such headers. Finished MIME is only completed, and a message
/// that is passed on is not changed.
pub fn build(draft: &Draft) -> Vec<u8> {
    if let Some(relayed) = draft.relayed() {
        return relayed.to_vec();
    }
    if let Some(mime) = draft.mime() {
        return raw::complete(draft, mime);
    }
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
    Alternative(Alternative<'a>),
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
            Part::Alternative(alternative) => alternative.size_limit,
            Part::File(file) => file.size_limit,
            Part::Container { parts, .. } => 256 + parts.iter().map(|part| 64 + part.size_limit()).sum::<usize>(),
        }
    }

    /// Returns whether the part has bytes above 127.
    fn is_eight_bit(&self) -> bool {
        match self {
            Part::Text { .. } | Part::Alternative(_) => false,
            Part::File(file) => file.is_eight_bit(),
            Part::Container { parts, .. } => parts.iter().any(Part::is_eight_bit),
        }
    }
}

/// Returns the tree of `draft`'s parts, with `html` as its HTML.
fn root<'a>(draft: &'a Draft, html: Option<&'a Cow<'a, str>>, boundary: &str) -> Part<'a> {
    let text_part = |subtype, text| Part::Text { subtype, text: Text::new(text, boundary) };
    let (content, domain) = (&draft.content, draft.from.address.domain());
    let (mut alternatives, mut inline, mut attached) = (Vec::new(), Vec::new(), Vec::new());
    for (file, data) in &draft.attachments {
        if let Some(alternative) = Alternative::new(file, data, boundary) {
            alternatives.push(alternative);
        } else {
            let is_inline = content.html.is_some() && file.content_id.is_some();
            let files = if is_inline { &mut inline } else { &mut attached };
            files.push(Part::File(File::new(file, data, domain, boundary)));
        }
    }
    let html = html.map(|html| {
        let mut related = vec![text_part("html", html)];
        related.append(&mut inline);
        Part::container("related", related)
    });
    let text = match (content.text.as_deref(), &html) {
        (None, None) => Some(""),
        (text, _) => text,
    };
    let (last, before_html): (Vec<_>, Vec<_>) = alternatives.into_iter().partition(Alternative::follows_html);
    let mut bodies: Vec<Part<'a>> = text.map(|text| text_part("plain", text)).into_iter().collect();
    bodies.extend(before_html.into_iter().map(Part::Alternative));
    bodies.extend(html);
    bodies.extend(last.into_iter().map(Part::Alternative));
    let mut mixed = vec![Part::container("alternative", bodies)];
    mixed.append(&mut attached);
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
            Part::Alternative(alternative) => alternative.write(self.out),
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
        if parts.iter().any(Part::is_eight_bit) {
            write_field(self.out, "Content-Transfer-Encoding", "8bit");
        }
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
