//! Parses alternatives to the text and the HTML, such as invitations, and finds attachments that are alternatives.

use super::attachments::{self, with_digest};
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::message::{Attachment, AttachmentRole, NewAttachment};
use crate::mail::body::alternative::{is_alternative, is_same_type, is_utf8, lacks_method};

/// The fields of an alternative.
pub const FIELDS: &[&str] = &["content_type", "content"];

/// Maximum number of alternatives.
const MAX: usize = 5;

/// Parses the array `alternatives` and adds them to the attachments. An attachment that is an invitation or AMP becomes
/// an alternative too, if it is the first of its type and not inline.
pub fn add(node: Option<Node<'_, '_>>, files: &mut Vec<NewAttachment>, faults: &mut Faults) {
    let mut list: Vec<NewAttachment> = Vec::new();
    if let Some(node) = node {
        node.each(MAX, format_args!("at most {MAX} alternatives are allowed"), faults, |item, faults| {
            let at = item.at;
            let Some(new) = alternative(item, faults) else { return };
            if list.iter().any(|earlier| is_same(earlier, &new)) {
                let at = Pointer::Field(&at, "content_type");
                at.fault(faults, Code::DuplicateValue, "must be unique: another alternative has the same type");
            }
            list.push(new);
        });
    }
    for index in 0..files.len() {
        let Some((file, earlier)) = files.get_mut(..=index).and_then(<[NewAttachment]>::split_last_mut) else { break };
        let is_other =
            |other: &NewAttachment| other.description.role == AttachmentRole::Alternative && is_same(other, file);
        let is_first = !list.iter().any(is_other) && !earlier.iter().any(is_other);
        if is_first && file.description.content_id.is_none() && is_alternative(&file.description.content_type) {
            file.description.role = AttachmentRole::Alternative;
        }
    }
    files.append(&mut list);
}

fn is_same(one: &NewAttachment, other: &NewAttachment) -> bool {
    is_same_type(&one.description.content_type, &other.description.content_type)
}

fn alternative(node: Node<'_, '_>, faults: &mut Faults) -> Option<NewAttachment> {
    let Node { value, at } = node;
    let mut fields = Fields::open(value, &at, FIELDS, faults)?;
    let content_type = fields.require("content_type", faults).and_then(|node| content_type(node, faults));
    let content = fields.require("content", faults).and_then(|node| node.prose(faults));
    let description =
        Attachment { content_type: content_type?, role: AttachmentRole::Alternative, ..Attachment::default() };
    Some(with_digest(description, content?.into_bytes()))
}

/// Parses the media type of an alternative: any text type in UTF-8, except `text/plain` and `text/html`, which have fields
/// of their own. `text/calendar` needs a method.
fn content_type(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let given = attachments::content_type(node, faults)?;
    let is_text = given.get(..5).is_some_and(|kind| kind.eq_ignore_ascii_case("text/"));
    let message = if !is_text {
        "must be a text type such as `text/calendar; method=REQUEST` or `text/x-amp-html`; send other content as an attachment"
    } else if is_same_type(&given, "text/plain") || is_same_type(&given, "text/html") {
        "must not be `text/plain` or `text/html`; use the fields `text` and `html`"
    } else if !is_utf8(&given) {
        "must have the charset utf-8, or none: the content is Unicode text"
    } else if lacks_method(&given) {
        "needs the parameter `method`, as in `text/calendar; method=REQUEST`: without it, clients offer no response"
    } else {
        return Some(given);
    };
    at.fault(faults, Code::InvalidContentType, message);
    None
}
