//! The bytes of a file in a request, which come in four forms: a string in base64, an array of numbers (Python, Go, Rust),
//! `{"type": "Buffer", "data": […]}` (Node), and a string of plain text (.NET).

use std::fmt;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use memchr::memchr_iter;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Minimum line length of base64 with several lines. Encoders write lines of 64 or 76 characters.
const MIN_LINE: usize = 60;

/// Base64 with or without padding: the languages of the SDKs differ.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Returns the maximum number of items of the arrays in a JSON value.
pub(super) fn max_items(json: &str) -> usize {
    memchr_iter(b',', json.as_bytes()).count() + 1
}

/// The bytes of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum FileBytes {
    Bytes(Vec<u8>),
    /// A data URL: base64 with a prefix. It is a mistake of the client, and not the text of a file.
    DataUrl,
}

impl FileBytes {
    /// Parses the content of an attachment.
    pub(super) fn read(json: &RawValue) -> Result<Self, serde_json::Error> {
        let json = json.get();
        // Only an array needs a capacity.
        let capacity = if json.starts_with('"') { 0 } else { max_items(json) };
        let mut deserializer = serde_json::Deserializer::from_str(json);
        deserializer.deserialize_any(FileVisitor { capacity })
    }
}

/// Parses a file. `capacity` is the size of the buffer for an array of bytes: a buffer that grows could become larger.
struct FileVisitor {
    capacity: usize,
}

impl<'de> Visitor<'de> for FileVisitor {
    type Value = FileBytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the content of a file: a string in base64, an array of bytes, or a Buffer")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<FileBytes, E> {
        Ok(decode(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, bytes: A) -> Result<FileBytes, A::Error> {
        ByteArray { capacity: self.capacity }.visit_seq(bytes).map(FileBytes::Bytes)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<FileBytes, A::Error> {
        let mut data = None;
        while let Some(member) = object.next_key::<BufferMember>()? {
            match member {
                BufferMember::Data if data.is_none() => {
                    data = Some(object.next_value_seed(ByteArray { capacity: self.capacity })?);
                }
                BufferMember::Data | BufferMember::Other => {
                    object.next_value::<IgnoredAny>()?;
                }
            }
        }
        data.map(FileBytes::Bytes)
            .ok_or_else(|| A::Error::custom("a Buffer needs the member `data`, an array of bytes"))
    }
}

/// A member of a Node `Buffer`.
#[derive(serde::Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum BufferMember {
    Data,
    #[serde(other)]
    Other,
}

/// Parses an array of bytes.
struct ByteArray {
    capacity: usize,
}

impl<'de> DeserializeSeed<'de> for ByteArray {
    type Value = Vec<u8>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u8>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for ByteArray {
    type Value = Vec<u8>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of bytes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<Vec<u8>, A::Error> {
        let mut data = Vec::with_capacity(self.capacity);
        while let Some(byte) = bytes.next_element::<u8>()? {
            data.push(byte);
        }
        Ok(data)
    }
}

/// Decodes base64. A text that is not base64 is itself the content of the file.
fn decode(text: &str) -> FileBytes {
    if let Ok(data) = BASE64.decode(text) {
        return FileBytes::Bytes(data);
    }
    if let Some(data) = decode_lines(text.trim_ascii()) {
        return FileBytes::Bytes(data);
    }
    let head = text.as_bytes();
    let head = &head[..head.len().min(200)];
    if head.starts_with(b"data:") && memchr::memmem::find(head, b";base64,").is_some() {
        return FileBytes::DataUrl;
    }
    FileBytes::Bytes(text.as_bytes().to_vec())
}

/// Decodes base64 that an encoder has wrapped: lines of equal length, except for the last one. Short lines are text,
/// such as a list of words, even if all of their letters are in the base64 alphabet.
fn decode_lines(text: &str) -> Option<Vec<u8>> {
    let mut lines = text.lines().peekable();
    let width = lines.peek()?.len();
    let has_several = text.len() > width;
    if has_several && (width < MIN_LINE || !width.is_multiple_of(4)) {
        return None;
    }
    let mut data = Vec::with_capacity(text.len() / 4 * 3 + 3);
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none();
        let is_full = line.len() == width && !line.ends_with('=');
        if !is_full && (!is_last || line.len() > width) {
            return None;
        }
        BASE64.decode_vec(line, &mut data).ok()?;
    }
    Some(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(json: &str) -> Option<FileBytes> {
        FileBytes::read(serde_json::from_str(json).unwrap()).ok()
    }

    #[test]
    fn every_form_of_a_file_gives_its_bytes() {
        let hello = Some(FileBytes::Bytes(b"hello\xff".to_vec()));
        for json in [
            r#""aGVsbG//""#,
            "[104, 101, 108, 108, 111, 255]",
            r#"{"type": "Buffer", "data": [104, 101, 108, 108, 111, 255]}"#,
            r#"{"data": [104, 101, 108, 108, 111, 255]}"#,
            r#""aGVsbG//\r\n""#,
        ] {
            assert_eq!(bytes(json), hello, "{json}");
        }
        for (json, text) in [
            (r#""aGk""#, "hi"),
            (r#""aGk=""#, "hi"),
            (r#""Hello, world!""#, "Hello, world!"),
            (r#""two words""#, "two words"),
            (r#""a,b\n1,2\n""#, "a,b\n1,2\n"),
            (r#""word\ntext\nlist""#, "word\ntext\nlist"),
            (r#""""#, ""),
            ("[]", ""),
        ] {
            assert_eq!(bytes(json), Some(FileBytes::Bytes(text.as_bytes().to_vec())), "{json}");
        }
        assert_eq!(bytes(r#""data:text/plain;base64,aGk=""#), Some(FileBytes::DataUrl));
        for json in ["[256]", "[-1]", "[1.5]", r#"["a"]"#, "5", "true", "{}", r#"{"data": "aGk="}"#] {
            assert_eq!(bytes(json), None, "{json}");
        }
    }

    #[test]
    fn base64_may_be_wrapped_in_long_lines() {
        let data: Vec<u8> = (0..=255).collect();
        let encoded = base64::engine::general_purpose::STANDARD.encode(&data);
        for width in [60, 64, 76] {
            let lines: Vec<&str> =
                encoded.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            for end in ["\n", "\r\n"] {
                assert_eq!(decode(&(lines.join(end) + end)), FileBytes::Bytes(data.clone()), "{width}");
            }
        }
        let uneven = format!("{}\n{}", &encoded[..60], &encoded[60..]);
        assert_eq!(decode(&uneven), FileBytes::Bytes(uneven.clone().into_bytes()));
    }
}
