//! Parses a message with mail-parser, an implementation that shares no code with Postrider.

use mail_parser::{Address, HeaderValue, Message, MessageParser, MessagePart, MimeHeaders, PartType};

/// A leaf of a message's tree of parts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) content_type: String,
    pub(super) filename: Option<String>,
    pub(super) content_id: Option<String>,
    pub(super) data: Vec<u8>,
}

pub(super) fn parse(mail: &[u8]) -> Message<'_> {
    MessageParser::new()
        .with_mime_headers()
        .with_date_headers()
        .with_address_headers()
        .with_message_ids()
        .default_header_text()
        .parse(mail)
        .expect("a message that mail-parser accepts")
}

/// Formats the tree as text: `mixed(alternative(text/plain, text/html), application/pdf)`.
pub(super) fn tree(mail: &[u8]) -> String {
    let message = parse(mail);
    branch(&message, message.root_part())
}

fn branch(message: &Message<'_>, part: &MessagePart<'_>) -> String {
    match &part.body {
        PartType::Multipart(ids) => {
            let parts: Vec<_> = ids.iter().map(|&id| branch(message, message.part(id).unwrap())).collect();
            format!("{}({})", part.content_type().unwrap().subtype().unwrap(), parts.join(", "))
        }
        _ => content_type(part),
    }
}

fn content_type(part: &MessagePart<'_>) -> String {
    let declared = part.content_type().unwrap();
    format!("{}/{}", declared.ctype(), declared.subtype().unwrap())
}

/// Returns every part that is not a container, in order.
pub(super) fn leaves(message: &Message<'_>) -> Vec<Leaf> {
    let leaves = message.parts.iter().filter(|part| !matches!(part.body, PartType::Multipart(_)));
    leaves
        .map(|part| Leaf {
            content_type: content_type(part),
            filename: part.attachment_name().map(Into::into),
            content_id: part.content_id().map(Into::into),
            data: part.contents().to_vec(),
        })
        .collect()
}

/// Returns names and addresses of an address field.
pub(super) fn mailboxes(field: Option<&Address<'_>>) -> Vec<(Option<String>, String)> {
    let each = field.into_iter().flat_map(Address::iter);
    each.map(|mailbox| (mailbox.name().map(Into::into), mailbox.address().unwrap_or_default().into())).collect()
}

/// Returns names and values of the header's fields, without the values of address and date fields.
pub(super) fn fields(message: &Message<'_>) -> Vec<(String, String)> {
    let value = |value: &HeaderValue<'_>| value.as_text().unwrap_or_default().to_owned();
    message.headers().iter().map(|field| (field.name().to_owned(), value(field.value()))).collect()
}
