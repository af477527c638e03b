//! Senders and recipients in JSON: `"a@b"`, `"Name <a@b>"` or `{"email", "name"}`, alone or in an array.

use serde_json_borrow::Value;

use crate::accept::request::Context;
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::{Node, one_line};
use crate::domain::address::{Address, AddressError, Mailbox};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::RecipientId;
use crate::domain::message::{NewRecipient, RecipientKind};
use crate::domain::simulator::Script;

/// The fields of an address object.
pub const FIELDS: &[&str] = &["email", "name"];

const MAX_REPLY_TO: usize = 10;

/// Parses a mailbox, given as a string or as an object.
pub fn mailbox(node: Node<'_, '_>, faults: &mut Faults) -> Option<Mailbox> {
    let Node { value, at } = node;
    match value {
        Value::Str(text) => parse(&text, &at, faults),
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
            at.fault(faults, Code::InvalidAddress, "must be only the address; move the name to the field `name`");
            return None;
        }
        parse::<Address>(text.trim_matches(' '), &at, faults)
    });
    match fields.take("name") {
        None => Some(Mailbox { address: address?, name: None }),
        Some(node) => {
            let at = node.at;
            let name = node.line(0..=Mailbox::MAX_NAME, faults)?;
            ok_or_report(Mailbox::new(address?, &name), &at, faults)
        }
    }
}

/// Parses a mailbox in `from` or `reply_to`. Refuses special characters in a quoted local part: some mail clients show
/// `"a> <b@other.test"@acme.test` as sent by `b@other.test`, even if the API key is limited to `acme.test`.
pub fn sender(node: Node<'_, '_>, faults: &mut Faults) -> Option<Mailbox> {
    let at = node.at;
    let mailbox = mailbox(node, faults)?;
    if let Some(c) = unsafe_in_sender(&mailbox.address) {
        at.fault(
            faults,
            Code::InvalidAddress,
            format_args!("the quoted local part of a sender's address must not contain `{c}`"),
        );
        return None;
    }
    Some(mailbox)
}

/// Returns a character of a quoted local part that a sender's address must not have.
pub(in crate::accept::request) fn unsafe_in_sender(address: &Address) -> Option<char> {
    let quoted = Some(address.local()).filter(|local| local.starts_with('"'))?;
    quoted.chars().find(|c| "<>@,;:()\\".contains(*c))
}

/// Parses an address or a mailbox from a string.
fn parse<T: std::str::FromStr<Err = AddressError>>(text: &str, at: &Pointer<'_>, faults: &mut Faults) -> Option<T> {
    // Control characters are checked here, because they have a separate fault code. The parser checks the length.
    if !one_line(text, at, 0..=usize::MAX, faults) {
        return None;
    }
    ok_or_report(text.parse(), at, faults)
}

fn ok_or_report<T>(result: Result<T, AddressError>, at: &Pointer<'_>, faults: &mut Faults) -> Option<T> {
    result.map_err(|error| at.fault(faults, Code::InvalidAddress, error)).ok()
}

/// Parses `reply_to`: one mailbox, or an array of up to ten.
pub fn reply_to(node: Option<Node<'_, '_>>, faults: &mut Faults) -> Vec<Mailbox> {
    let mut list = Vec::new();
    if let Some(node) = node {
        let why = format_args!("at most {MAX_REPLY_TO} addresses are allowed");
        node.one_or_each(MAX_REPLY_TO, why, faults, |item, faults| list.extend(sender(item, faults)));
    }
    list
}

/// Parses the mailbox of a recipient.
pub fn recipient(node: Node<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Option<Mailbox> {
    let at = node.at;
    let mailbox = mailbox(node, faults)?;
    match simulator_fault(&mailbox.address, context) {
        Some((code, why)) => {
            at.fault(faults, code, why);
            None
        }
        None => Some(mailbox),
    }
}

/// Returns why a recipient's address cannot be used: it is one of the simulator, which is disabled or has no such
/// script.
pub(in crate::accept::request) fn simulator_fault(address: &Address, context: &Context<'_>) -> Option<(Code, String)> {
    match Script::from_address(address)? {
        _ if !context.limits.simulator => Some((
            Code::NotConfigured,
            "the simulator is disabled; set `simulator.enabled`, or use another address".into(),
        )),
        Err(error) => Some((Code::InvalidValue, error.to_string())),
        Ok(_) => None,
    }
}

/// Parses `to`, `cc` and `bcc` in this order. Duplicate addresses are dropped.
pub fn recipients(fields: &mut Fields<'_, '_>, context: &Context<'_>, faults: &mut Faults) -> Vec<NewRecipient> {
    let limit = context.limits.recipients;
    let mut list: Vec<NewRecipient> = Vec::new();
    let mut given = 0;
    for kind in [RecipientKind::To, RecipientKind::Cc, RecipientKind::Bcc] {
        let Some(node) = fields.take(kind.as_str()) else { continue };
        let why = format_args!("`to`, `cc` and `bcc` together may have at most {limit} recipients");
        node.one_or_each(limit - given, why, faults, |item, faults| {
            given += 1;
            let Some(mailbox) = recipient(item, context, faults) else { return };
            if !list.iter().any(|earlier| earlier.mailbox.address == mailbox.address) {
                list.push(NewRecipient { id: RecipientId::new(context.now), kind, mailbox });
            }
        });
    }
    list
}
