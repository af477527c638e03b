//! The recipients of a finished message: the envelope's if it is given, otherwise the ones that the header names.

use crate::accept::request::Context;
use crate::accept::request::json::pointer::cut;
use crate::accept::request::message::address::simulator_fault;
use crate::domain::address::{Address, Mailbox};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::RecipientId;
use crate::domain::message::{NewRecipient, RecipientKind};
use crate::mail::raw::{self, RawMessage};

/// The header fields of recipients, with the kind of recipient that each names.
const FIELDS: [(&str, RecipientKind); 3] =
    [("To", RecipientKind::To), ("Cc", RecipientKind::Cc), ("Bcc", RecipientKind::Bcc)];

/// A text that is not an address, and why.
#[derive(Debug)]
pub(super) struct InvalidAddress {
    text: String,
    why: String,
}

/// Returns the mailboxes in all header fields with this name.
pub(super) fn mailboxes(raw: &RawMessage, field: &str) -> Vec<Result<Mailbox, InvalidAddress>> {
    let all = raw.values(field).flat_map(|value| raw::addresses(&value));
    let parse = |(name, text): (Option<String>, String)| match text.parse::<Address>() {
        Ok(address) => {
            // A name that cannot be stored, such as one with control characters, is not needed for sending.
            let named = name.and_then(|name| Mailbox::new(address.clone(), &name).ok());
            Ok(named.unwrap_or(Mailbox { address, name: None }))
        }
        Err(error) => Err(InvalidAddress { text, why: error.to_string() }),
    };
    all.map(parse).collect()
}

/// Returns the recipients: first the ones that `To` names, then `Cc`, then the others. `envelope` contains the
/// recipients from the query parameters; if it is empty, the recipients are the addresses in the header.
pub(super) fn recipients(
    raw: &RawMessage,
    mut envelope: Vec<NewRecipient>,
    context: &Context<'_>,
    faults: &mut Faults,
) -> Vec<NewRecipient> {
    if envelope.is_empty() {
        return named_in_header(raw, context, faults);
    }
    let kinds = [RecipientKind::To, RecipientKind::Cc];
    let named = FIELDS.iter().filter(|(_, kind)| kinds.contains(kind));
    let named: Vec<(Mailbox, RecipientKind)> = named
        .flat_map(|(field, kind)| mailboxes(raw, field).into_iter().flatten().map(|mailbox| (mailbox, *kind)))
        .collect();
    for recipient in &mut envelope {
        let found = named.iter().find(|(mailbox, _)| mailbox.address == recipient.mailbox.address);
        recipient.kind = found.map_or(RecipientKind::Bcc, |(_, kind)| *kind);
        if recipient.mailbox.name.is_none() {
            recipient.mailbox.name = found.and_then(|(mailbox, _)| mailbox.name.clone());
        }
    }
    envelope.sort_by_key(|recipient| FIELDS.iter().position(|(_, kind)| *kind == recipient.kind));
    envelope
}

fn named_in_header(raw: &RawMessage, context: &Context<'_>, faults: &mut Faults) -> Vec<NewRecipient> {
    let is_resent = |name: &str| name.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("Resent-"));
    if raw.fields().any(|field| is_resent(field.name)) {
        let message = "pass the recipients as `to`: the message is resent, and `To` and `Cc` name the first recipients";
        faults.push("to", Code::Required, message);
        return Vec::new();
    }
    let (before, limit) = (faults.len(), context.limits.recipients);
    let mut list: Vec<NewRecipient> = Vec::new();
    let mut given = 0;
    for (field, kind) in FIELDS {
        for mailbox in mailboxes(raw, field) {
            given += 1;
            if given > limit {
                let message = format!("at most {limit} recipients are allowed in `To`, `Cc` and `Bcc` together");
                faults.push(field, Code::TooMany, message);
                return list;
            }
            match mailbox {
                Ok(mailbox) if list.iter().any(|earlier| earlier.mailbox.address == mailbox.address) => {}
                Ok(mailbox) => match simulator_fault(&mailbox.address, context) {
                    Some((code, why)) => faults.push(field, code, why),
                    None => list.push(NewRecipient { id: RecipientId::new(context.now), kind, mailbox }),
                },
                Err(InvalidAddress { text, why }) => {
                    let message = format!("`{}` in the field `{field}` is not an address: {why}", cut(&text));
                    faults.push(field, Code::InvalidAddress, message);
                }
            }
        }
    }
    if list.is_empty() && faults.len() == before {
        let message = "pass the recipients as `to`, or name them in the field `To`, `Cc` or `Bcc` of the message";
        faults.push("to", Code::Required, message);
    }
    list
}
