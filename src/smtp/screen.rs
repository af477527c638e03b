//! What can be judged about a recipient before anything is said to the server.

use super::offer::Offer;
use super::transaction::{Judgement, Parcel};
use crate::domain::address::Address;
use crate::domain::outcome::{Reply, Stage, Verdict};

/// The refusal of a recipient whom this server cannot be asked about; nothing of it is sent.
pub(super) fn screen(offer: &Offer, parcel: Parcel<'_>, to: &Address) -> Option<Judgement> {
    let from = parcel.envelope.from.as_ref();
    let permanent = |subject, detail, why: String| {
        let reply = Reply::ours_with(5, subject, detail, why);
        Some(Judgement::new(Verdict::Permanent, Stage::Mail, reply))
    };
    let size = size(parcel.mime);
    if let Some(limit) = offer.size_limit
        && size as u64 > limit
    {
        return permanent(3, 4, format!("the mail has {size} octets and the server takes at most {limit}"));
    }
    if breaks_commands(to) {
        return permanent(1, 3, "the address cannot be given in SMTP".into());
    }
    if from.is_some_and(breaks_commands) {
        return permanent(1, 7, "the return path cannot be given in SMTP".into());
    }
    if !offer.smtputf8() && (to.needs_smtputf8() || from.is_some_and(Address::needs_smtputf8)) {
        return permanent(6, 7, "the address needs SMTPUTF8 and the server does not offer it".into());
    }
    // A name beyond ASCII before the @ of anybody in the header fields; nothing else in our mail has eight bits.
    if parcel.eight_bit && !offer.eight_bit_mime() && !offer.smtputf8() {
        return permanent(
            6,
            3,
            "the mail has eight-bit octets and the server offers neither 8BITMIME nor SMTPUTF8".into(),
        );
    }
    None
}

/// The size that SIZE speaks of (RFC 1870 §6.1): with line ends, without stuffed dots and terminator.
pub(super) fn size(mime: &[u8]) -> usize {
    if mime.is_empty() || mime.ends_with(b"\r\n") { mime.len() } else { mime.len() + 2 }
}

/// The last line of defence: an address with a line end in it would be a second command.
fn breaks_commands(address: &Address) -> bool {
    [address.local(), address.domain()].iter().any(|part| part.is_empty() || part.chars().any(char::is_control))
}
