//! Finds recipients and messages that the server cannot accept, before MAIL is sent.

use crate::domain::address::Address;
use crate::domain::outcome::{Reply, Stage, Verdict};
use crate::smtp::client::connection::ehlo::Capabilities;
use crate::smtp::client::outgoing_message::{EightBit, Judgement, OutgoingMessage};

/// Returns the judgement of a recipient that this server cannot accept, for which nothing is sent; `None` if the server may
/// accept it.
pub(in crate::smtp) fn preflight(
    offer: &Capabilities,
    message: OutgoingMessage<'_>,
    to: &Address,
) -> Option<Judgement> {
    let from = message.envelope.from.as_ref();
    let permanent = |subject, detail, why: String| {
        let reply = Reply::local_error_with(5, subject, detail, why);
        Some(Judgement::new(Verdict::Permanent, Stage::Mail, reply))
    };
    let size = size(message.mime);
    if let Some(limit) = offer.size_limit
        && size as u64 > limit
    {
        return permanent(3, 4, format!("the message has {size} bytes and the server accepts at most {limit}"));
    }
    if breaks_commands(to) {
        return permanent(1, 3, "the address is not valid in an SMTP command".into());
    }
    if from.is_some_and(breaks_commands) {
        return permanent(1, 7, "the return path is not valid in an SMTP command".into());
    }
    if !offer.smtputf8() && (to.needs_smtputf8() || from.is_some_and(Address::needs_smtputf8)) {
        return permanent(6, 7, "the address needs SMTPUTF8 and the server does not offer it".into());
    }
    // A header field with a non-ASCII address must not be sent to this server (RFC 6531 §3.2), so this concerns all
    // recipients of the envelope. Rewriting the header would drop a sender or recipient, and break the signature.
    if message.eight_bit == EightBit::Header && !offer.smtputf8() {
        let why = "the header is UTF-8, which needs SMTPUTF8, and the server does not offer it";
        return permanent(6, 7, why.into());
    }
    if message.eight_bit == EightBit::Body && !offer.eight_bit_mime() && !offer.smtputf8() {
        let why = "the message has bytes above 127 and the server offers neither 8BITMIME nor SMTPUTF8";
        return permanent(6, 3, why.into());
    }
    None
}

/// Returns the size for SIZE (RFC 1870 §6.1): with line ends, without stuffed dots and terminator.
pub(in crate::smtp) fn size(mime: &[u8]) -> usize {
    if mime.is_empty() || mime.ends_with(b"\r\n") { mime.len() } else { mime.len() + 2 }
}

/// Returns whether an address could inject a second command. Earlier checks already refuse such addresses.
fn breaks_commands(address: &Address) -> bool {
    [address.local(), address.domain()].iter().any(|part| part.is_empty() || part.chars().any(char::is_control))
}
