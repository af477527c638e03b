//! Derives the text of messages that have only HTML, as Resend does.

use std::ops::Range;

use crate::template;

/// The longest encoding of one byte in JSON, such as `\u003c`.
const MAX_ESCAPE: usize = 6;

/// Returns the JSON of a request with a derived text after each of these HTML bodies, which are in ascending order. A
/// message gets no text if none can be derived from its HTML, or if its HTML is larger than a template's may be.
pub(in crate::http::resend) fn with_texts(json: &[u8], htmls: &[Range<usize>]) -> Vec<u8> {
    let mut all = Vec::with_capacity(json.len());
    let mut copied = 0;
    for html in htmls {
        let Some(text) = json.get(html.clone()).and_then(derived) else { continue };
        all.extend_from_slice(&json[copied..html.end]);
        all.extend_from_slice(b",\"text\":");
        all.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
        copied = html.end;
    }
    all.extend_from_slice(&json[copied..]);
    all
}

/// Returns the text of an HTML body, given as a JSON string; `None` if there is none.
fn derived(html: &[u8]) -> Option<String> {
    if html.len() > MAX_ESCAPE * template::limits::MAX_SOURCE {
        return None;
    }
    let html: String = serde_json::from_slice(html).ok()?;
    template::plain_text(&html).filter(|text| !text.trim().is_empty())
}
