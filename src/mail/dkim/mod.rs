//! DKIM signatures (RFC 6376, RFC 8463), relaxed/relaxed.
//!
//! A signature depends only on the message, the keys and the message's date (`t=`), so that every attempt and every
//! `GET …/raw` of a message has the same signature. The body is hashed once for all keys. mail-auth provides the canonical
//! forms and writes the signature field. Its `sign` is not used: it takes `t=` from the system clock, so each attempt
//! would send a different message.

use chrono::{DateTime, Utc};
use mail_auth::common::crypto::{HashAlgorithm, SigningKey as _};
use mail_auth::common::headers::{Writable, Writer};
use mail_auth::dkim::{Canonicalization, Signature};

use crate::domain::sender_domain::dkim::{Signer, SigningKey};

/// Fields that are signed if present: those recommended by RFC 6376 §5.4.1, those that describe the body, and those
/// that a receiver shows or acts on.
const SIGNED: [&str; 24] = [
    "From",
    "To",
    "Cc",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "Sender",
    "In-Reply-To",
    "References",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Id",
    "List-Help",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "List-Subscribe",
    "List-Post",
    "List-Owner",
    "List-Archive",
    "Feedback-ID",
    "Auto-Submitted",
    "Disposition-Notification-To",
];

/// Fields listed once more than they occur, so that adding another one invalidates the signature (§8.15).
const OVERSIGNED: [&str; 5] = ["From", "Subject", "To", "Reply-To", "Date"];

/// The reason why a message could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot be signed with {selector}: {why}")]
pub struct SignError {
    selector: String,
    why: String,
}

/// Prepends a signature for each key to the message. Works in place, so that a large message is not in memory twice. On
/// an error the message is unchanged.
pub fn sign(mime: &mut Vec<u8>, signer: &Signer, at: DateTime<Utc>) -> Result<(), SignError> {
    let signatures = signatures(mime, signer, at)?;
    // Reserves exactly the needed capacity: otherwise the vector could double its size.
    mime.reserve_exact(signatures.len());
    mime.splice(..0, signatures);
    Ok(())
}

/// Returns the header fields to prepend to the message.
fn signatures(mime: &[u8], signer: &Signer, at: DateTime<Utc>) -> Result<Vec<u8>, SignError> {
    let (fields, body) = split(mime);
    // From the last field to the first, as a verifier selects them (§5.4.2).
    let chosen: Vec<Field<'_>> = fields.into_iter().rev().filter(|(name, _)| is_signed(name)).collect();
    let mut canonical = Vec::with_capacity(1_024);
    Canonicalization::Relaxed.canonicalize_headers(chosen.iter().copied(), &mut canonical);
    let name = |(name, _): &Field<'_>| String::from_utf8_lossy(name).into_owned();
    let h: Vec<String> = chosen.iter().map(name).chain(OVERSIGNED.map(str::to_owned)).collect();
    let bh = HashAlgorithm::Sha256.hash(Canonicalization::Relaxed.canonical_body(body, u64::MAX)).as_ref().to_vec();
    let mut out = Vec::with_capacity(1_024);
    for key in &signer.keys {
        let template = Signature {
            v: 1,
            a: key.key.algorithm(),
            d: signer.domain.clone(),
            s: key.selector.clone(),
            h: h.clone(),
            bh: bh.clone(),
            t: u64::try_from(at.timestamp()).unwrap_or(0),
            ..Signature::default()
        };
        let mut header = Vec::with_capacity(1_024);
        signature(key, &canonical, template)?.write(&mut header, true);
        fold(&mut out, &header);
    }
    Ok(out)
}

/// Maximum line length recommended by RFC 5322 §2.1.1.
const LINE: usize = 78;

/// Folds long lines of a signature at the spaces between its tags, because domains and selectors may be long. This does
/// not change the canonical form, in which a fold is a space (§3.4.2).
fn fold(out: &mut Vec<u8>, header: &[u8]) {
    for line in header.split_inclusive(|byte| *byte == b'\n') {
        let mut rest = line;
        while rest.len() > LINE + "\r\n".len() {
            // Not after the field name, which ends with `: `, and not at the beginning of a line.
            let spaces = memchr::memchr_iter(b' ', rest).filter(|at| *at > 0 && rest[at - 1] == b';');
            let Some(at) = spaces
                .take_while(|at| *at <= LINE)
                .last()
                .or_else(|| memchr::memchr_iter(b' ', rest).find(|at| *at > LINE && rest[at - 1] == b';'))
            else {
                break;
            };
            out.extend_from_slice(&rest[..at]);
            out.extend_from_slice(b"\r\n\t");
            rest = &rest[at + 1..];
        }
        out.extend_from_slice(rest);
    }
}

fn signature(key: &SigningKey, fields: &[u8], mut signature: Signature) -> Result<Signature, SignError> {
    let signed = key.key.sign(Signable { fields, signature: &signature });
    signature.b = signed.map_err(|why| SignError { selector: key.selector.clone(), why: why.to_string() })?;
    Ok(signature)
}

/// The signed data: the canonical fields, then the signature field without its `b=` (§3.7).
struct Signable<'a> {
    fields: &'a [u8],
    signature: &'a Signature,
}

impl Writable for Signable<'_> {
    fn write(self, writer: &mut impl Writer) {
        writer.write(self.fields);
        self.signature.write(writer, false);
    }
}

fn is_signed(name: &[u8]) -> bool {
    SIGNED.iter().any(|signed| name.eq_ignore_ascii_case(signed.as_bytes()))
}

/// The name of a field, and its value with the line end.
type Field<'a> = (&'a [u8], &'a [u8]);

/// Splits a message with CRLF line ends into its fields and its body.
fn split(mime: &[u8]) -> (Vec<Field<'_>>, &[u8]) {
    let (mut fields, mut rest) = (Vec::new(), mime);
    while !rest.is_empty() {
        if let Some(body) = rest.strip_prefix(b"\r\n") {
            return (fields, body);
        }
        let field = &rest[..end_of_field(rest)];
        rest = &rest[field.len()..];
        if let Some(colon) = memchr::memchr(b':', field) {
            fields.push((&field[..colon], &field[colon + 1..]));
        }
    }
    (fields, rest)
}

/// Returns the end of the first field, including its continuation lines.
fn end_of_field(text: &[u8]) -> usize {
    let continues = |end: usize| matches!(text.get(end), Some(b' ' | b'\t'));
    let ends = memchr::memchr_iter(b'\n', text).map(|line_end| line_end + 1);
    ends.into_iter().find(|end| !continues(*end)).unwrap_or(text.len())
}

#[cfg(test)]
mod tests;
