//! Encodings of the content: line ends, and the transfer encodings base64 and quoted-printable (RFC 2045 §6).

pub(super) mod base64_lines;
pub(super) mod normalise;
pub(super) mod quoted_printable;
