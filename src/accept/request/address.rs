//! Senders and recipients in JSON: `"a@b"`, `"Name <a@b>"` or `{"email", "name"}`, alone or in an array.

use serde_json_borrow::Value;

use super::Context;
use super::fields::Fields;
use super::pointer::Pointer;
use super::walk::{Node, one_line};
use crate::domain::address::{Address, AddressError, Mailbox};
use crate::domain::fault::{Code, Faults};
use crate::domain::id::RecipientId;
use crate::domain::message::{NewRecipient, RecipientKind};

/// The fields of an address object.
pub const FIELDS: &[&str] = &["email", "name"];

const MAX_REPLY_TO: usize = 10;

/// One mailbox in either form.
pub fn mailbox(node: Node<'_, '_>, faults: &mut Faults) -> Option<Mailbox> {
    let Node { value, at } = node;
    match value {
        Value::Str(text) => read(&text, &at, faults),
        Value::Object(_) => object(value, &at, faults),
        value => {
            Node { value, at }.wrong_type("an address: a string, or an object with `email` and `name`", faults);
            None
        }
    }
}

fn object(value: Value<'_>, at: &Pointer<'_>, faults: &mut Faults) -> Option<Mailbox> {
    let mut fields = Fields::open(value, at, FIELDS, faults)?;
    let address = fields.require("email", faults).and_then(|node| {
        let at = node.at;
        let text = node.string(faults)?;
        if text.trim_end().ends_with('>') {
            at.fault(faults, Code::InvalidAddress, "only the address belongs here; the name goes into `name`");
            return None;
        }
        read::<Address>(text.trim_matches(' '), &at, faults)
    });
    match fields.take("name") {
        None => Some(Mailbox { address: address?, name: None }),
        Some(node) => {
            let at = node.at;
            let name = node.line(0..=Mailbox::MAX_NAME, faults)?;
            noted(Mailbox::new(address?, &name), &at, faults)
        }
    }
}

/// The mailbox in `from` or `reply_to`. Some readers take an address for the sender that stands in the quotes of another one,
/// such as `"a> <b@other.test"@acme.test`, which a key of `acme.test` must not be able to write.
pub fn sender(node: Node<'_, '_>, faults: &mut Faults) -> Option<Mailbox> {
    let at = node.at;
    let mailbox = mailbox(node, faults)?;
    let local = mailbox.address.local();
    if local.starts_with('"')
        && let Some(c) = local.chars().find(|c| "<>@,;:()\\".contains(*c))
    {
        at.fault(faults, Code::InvalidAddress, format_args!("`{c}` may not stand in the quotes before a sender's @"));
        return None;
    }
    Some(mailbox)
}

/// Reads an address or a mailbox out of a text.
fn read<T: std::str::FromStr<Err = AddressError>>(text: &str, at: &Pointer<'_>, faults: &mut Faults) -> Option<T> {
    // Control characters have a code of their own; the length is the parser's to judge.
    if !one_line(text, at, 0..=usize::MAX, faults) {
        return None;
    }
    noted(text.parse(), at, faults)
}

fn noted<T>(result: Result<T, AddressError>, at: &Pointer<'_>, faults: &mut Faults) -> Option<T> {
    result.map_err(|error| at.fault(faults, Code::InvalidAddress, error)).ok()
}

/// `reply_to`: one mailbox or up to ten.
pub fn reply_to(node: Option<Node<'_, '_>>, faults: &mut Faults) -> Vec<Mailbox> {
    let mut list = Vec::new();
    if let Some(node) = node {
        let why = format_args!("at most {MAX_REPLY_TO} addresses are allowed here");
        node.one_or_each(MAX_REPLY_TO, why, faults, |item, faults| list.extend(sender(item, faults)));
    }
    list
}

/// `to`, `cc` and `bcc` in this order; an address that was named before is not named again.
pub fn recipients(fields: &mut Fields<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Vec<NewRecipient> {
    let limit = context.limits.recipients;
    let mut list: Vec<NewRecipient> = Vec::new();
    let mut named = 0;
    for kind in [RecipientKind::To, RecipientKind::Cc, RecipientKind::Bcc] {
        let Some(node) = fields.take(kind.as_str()) else { continue };
        let why = format_args!("to, cc and bcc together may name at most {limit} recipients");
        node.one_or_each(limit - named, why, faults, |item, faults| {
            named += 1;
            let Some(mailbox) = mailbox(item, faults) else { return };
            if !list.iter().any(|earlier| earlier.mailbox.address == mailbox.address) {
                list.push(NewRecipient { id: RecipientId::new(context.now), kind, mailbox });
            }
        });
    }
    list
}
