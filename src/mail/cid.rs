//! Inlines the images that a message's HTML refers to as `cid:…` (RFC 2392) as `data:` URLs, because the frame that
//! shows the HTML may not load anything.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

/// Maximum bytes that the images add to the HTML of one message. A message may refer to an image many times.
const MAX_EMBEDDED_BYTES: usize = 32 << 20;

/// Media types that browsers show as images. An SVG shown as an image runs no script.
const TYPES: [&str; 6] = ["image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "image/svg+xml"];

/// Maximum size of all images of one message together, in bytes.
const MAX_IMAGE_BYTES: u64 = 16 << 20;

/// Images of one message as `data:` URLs, by content id.
#[derive(Debug)]
pub struct Images {
    /// The content ids that the HTML refers to.
    wanted: Vec<String>,
    urls: HashMap<String, String>,
    /// Bytes that further images may have.
    remaining: u64,
}

impl Images {
    /// Starts with the references in the HTML.
    pub fn wanted_by(html: &str) -> Self {
        let wanted = references(html).map(|reference| reference.id).collect();
        Self { wanted, urls: HashMap::new(), remaining: MAX_IMAGE_BYTES }
    }

    /// Returns whether the HTML shows this part: it refers to it, and browsers show its type as an image.
    pub fn wants(&self, content_id: &str, content_type: &str, size: u64) -> bool {
        let is_wanted = self.wanted.iter().any(|wanted| wanted == content_id) && !self.urls.contains_key(content_id);
        is_wanted && TYPES.contains(&content_type) && size <= self.remaining
    }

    /// Adds an image that is wanted.
    pub fn add(&mut self, content_id: &str, content_type: &str, content: &[u8]) {
        self.remaining = self.remaining.saturating_sub(content.len() as u64);
        self.urls.insert(content_id.to_owned(), format!("data:{content_type};base64,{}", STANDARD.encode(content)));
    }

    /// Returns the HTML with the images in place of the references, up to a total size; further references stay.
    pub fn embed(&self, html: &str) -> String {
        embed(html, &self.urls)
    }
}

/// Replaces the references to one of `images` in the HTML, as long as they add at most [`MAX_EMBEDDED_BYTES`].
fn embed(html: &str, images: &HashMap<String, String>) -> String {
    let (mut out, mut copied, mut remaining) = (String::with_capacity(html.len()), 0, MAX_EMBEDDED_BYTES);
    for Reference { start, end, id } in references(html) {
        if let Some(image) = images.get(&id).filter(|image| image.len() <= remaining) {
            out.push_str(&html[copied..start]);
            out.push_str(image);
            copied = end;
            remaining -= image.len();
        }
    }
    out + &html[copied..]
}

/// A `cid:` URL in HTML.
#[derive(Debug, PartialEq, Eq)]
struct Reference {
    start: usize,
    end: usize,
    /// The content id, decoded.
    id: String,
}

/// Finds every `cid:` URL at the start of a value: after a quote, `=`, `(` or white space.
fn references(html: &str) -> impl Iterator<Item = Reference> {
    let bytes = html.as_bytes();
    let starts = memchr::memmem::find_iter(bytes, b":").filter_map(|colon| colon.checked_sub(3));
    starts.filter_map(move |start| {
        let is_cid = bytes.get(start..start + 3)?.eq_ignore_ascii_case(b"cid");
        let before = start.checked_sub(1).and_then(|before| bytes.get(before))?;
        if !is_cid || !b"\"'=( \t\r\n".contains(before) {
            return None;
        }
        let value = html.get(start + 4..)?;
        let length = value.find(|c: char| c.is_ascii_whitespace() || "\"'()<>".contains(c)).unwrap_or(value.len());
        let id = percent_decode_str(&value[..length]).decode_utf8_lossy().replace("&amp;", "&");
        Some(Reference { start, end: start + 4 + length, id })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn embedded(html: &str) -> String {
        embed(html, &HashMap::from([("logo@acme.test".to_owned(), "data:image/png;base64,AA==".to_owned())]))
    }

    #[test]
    fn references_to_images_are_replaced() {
        for (html, expected) in [
            ("<img src=\"cid:logo@acme.test\">", "<img src=\"data:image/png;base64,AA==\">"),
            ("<img src=CID:logo%40acme.test>", "<img src=data:image/png;base64,AA==>"),
            ("url(cid:logo@acme.test)", "url(data:image/png;base64,AA==)"),
            ("<img src='cid:other@acme.test'>", "<img src='cid:other@acme.test'>"),
            ("acid:logo@acme.test", "acid:logo@acme.test"),
        ] {
            assert_eq!(embedded(html), expected);
        }
    }

    #[test]
    fn images_that_are_repeated_add_a_bounded_size() {
        let image = format!("data:image/png;base64,{}", "A".repeat(MAX_EMBEDDED_BYTES / 4));
        let html = "<img src=cid:a> ".repeat(1_000);
        let embedded = embed(&html, &HashMap::from([("a".to_owned(), image.clone())]));
        assert_eq!(embedded.matches("data:").count(), 3);
        assert_eq!(embedded.len(), html.len() + 3 * (image.len() - "cid:a".len()));
    }

    proptest! {
        #[test]
        fn html_without_images_is_unchanged(html in "(cid:|\"|é|=|<|logo| ){0,40}") {
            prop_assert_eq!(embed(&html, &HashMap::new()), html);
        }
    }
}
