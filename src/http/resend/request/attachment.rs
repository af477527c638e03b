//! Translates attachments. The file is in `content`, in one of several forms ([`FileBytes`]), or at a URL (`path`).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::file_bytes::{FileBytes, max_items};
use crate::accept::request::files::FilePart;
use crate::accept::request::json::pointer::Pointer;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::key::hex;

/// The name of a file that is sent without a name.
const NO_NAME: &str = "attachment";
/// Maximum length of a name that is taken from a URL, in bytes.
const MAX_NAME: usize = 200;

/// An attachment. Unknown members are ignored.
#[derive(Debug, serde::Deserialize)]
pub(super) struct Attachment<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    /// The file name; some clients send `false` for none.
    #[serde(borrow, default)]
    filename: Option<&'a RawValue>,
    #[serde(borrow, default)]
    path: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_id: Option<&'a RawValue>,
    /// The earlier name of `content_id`.
    #[serde(borrow, default)]
    inline_content_id: Option<&'a RawValue>,
}

/// Where the bytes of an attachment are.
pub(super) enum Source {
    /// In the request.
    File(FilePart),
    /// At this URL.
    Url(String),
}

impl Source {
    /// Returns the name of the file if the request has none: the last segment of the URL's path.
    pub(super) fn name(&self) -> Cow<'static, str> {
        let Self::Url(url) = self else { return NO_NAME.into() };
        let url = Url::parse(url).ok();
        let segment = url.as_ref().and_then(|url| url.path_segments()?.next_back());
        let name = percent_decode_str(segment.unwrap_or_default()).decode_utf8_lossy().into_owned();
        let is_name = !name.is_empty() && name.len() <= MAX_NAME && !name.contains(|c: char| c.is_control());
        if is_name { name.into() } else { NO_NAME.into() }
    }
}

impl Attachment<'_> {
    /// Returns the maximum size of the translated attachment and its file together.
    pub(super) fn max_size(&self) -> usize {
        let fields = [self.filename, self.path, self.content_type, self.content_id, self.inline_content_id];
        let fields: usize = fields.into_iter().flatten().map(|field| field.get().len()).sum();
        let content = self.content.map_or(0, |content| match content.get() {
            text if text.starts_with('"') => text.len(),
            numbers => max_items(numbers),
        });
        fields + content
    }

    /// Returns where the bytes are. `may_fetch` says whether the configuration allows URLs.
    pub(super) fn source(&self, may_fetch: bool, at: &Pointer<'_>, faults: &mut Faults) -> Option<Source> {
        let content = match self.content.map(FileBytes::read).transpose() {
            Ok(content) => content,
            Err(error) => {
                Pointer::Field(at, "content").fault(faults, Code::InvalidType, error);
                return None;
            }
        };
        let data = match (content, given(self.path)) {
            (Some(FileBytes::Bytes(data)), path) if !data.is_empty() || path.is_none() => data,
            (Some(FileBytes::DataUrl), _) => {
                let message = "must not be a data URL; use only the part after `base64,`";
                Pointer::Field(at, "content").fault(faults, Code::InvalidBase64, message);
                return None;
            }
            (_, Some(path)) => return url(path, may_fetch, &Pointer::Field(at, "path"), faults).map(Source::Url),
            _ => {
                Pointer::Field(at, "content").fault(faults, Code::Required, "`content` is required");
                return None;
            }
        };
        let (sha256, size) = (hex(&Sha256::digest(&data)), data.len() as u64);
        Some(Source::File(FilePart { sha256, size, data }))
    }

    /// Returns the attachment for `/v1`, whose field `field` says where the bytes are. `name` is the name of the file if
    /// the request has none.
    pub(super) fn value(&self, field: &str, place: &str, name: &str) -> String {
        let place = serde_json::Value::from(place);
        let filename = given(self.filename).filter(|name| name.get() != "false");
        let filename = filename
            .map_or_else(|| Cow::Owned(serde_json::Value::from(name).to_string()), |name| Cow::Borrowed(name.get()));
        let mut value = format!("{{\"{field}\":{place},\"filename\":{filename}");
        let content_id = given(self.content_id).or(given(self.inline_content_id));
        for (field, given) in [("content_type", given(self.content_type)), ("content_id", content_id)] {
            if let Some(given) = given {
                for part in [",\"", field, "\":", given.get()] {
                    value.push_str(part);
                }
            }
        }
        value.push('}');
        value
    }
}

/// Parses a URL.
fn url(path: &RawValue, may_fetch: bool, at: &Pointer<'_>, faults: &mut Faults) -> Option<String> {
    if !may_fetch {
        let message =
            "files are not downloaded here, because `resend.fetch_attachments` is off; send the file in `content`";
        at.fault(faults, Code::NotAvailable, message);
        return None;
    }
    let url = serde_json::from_str(path.get());
    url.map_err(|_| at.fault(faults, Code::InvalidType, "expected a string")).ok()
}

/// Returns a value, unless it is empty.
fn given(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| !matches!(value.get(), "\"\"" | "null"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_end_of_the_url() {
        let name = |url: &str| Source::Url(url.into()).name();
        for (url, expected) in [
            ("https://files.test/2026/invoice.pdf?sig=a/b#top", "invoice.pdf"),
            ("https://files.test/a%20b%C3%A4.pdf", "a bä.pdf"),
            ("https://files.test/", "attachment"),
            ("https://files.test", "attachment"),
            ("https://files.test/a%0D%0Ab", "attachment"),
            ("no URL", "attachment"),
        ] {
            assert_eq!(name(url), expected, "{url}");
        }
        assert_eq!(name(&format!("https://files.test/{}", "x".repeat(300))), "attachment");
    }
}
