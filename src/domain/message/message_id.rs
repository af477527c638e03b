//! Message-IDs (RFC 5322 §3.6.4), and the ids of a thread.
//!
//! The Message-ID of a message is derived from its id and its sender's domain, so it need not be stored, and the message's
//! id can be read back from it. Only a message that was passed as finished MIME may have another one.

use uuid::Uuid;

use crate::domain::id::MessageId;

/// Maximum number of ids in the `References` of a reply.
const MAX_REFERENCES: usize = 50;
/// Maximum length of the `References` of a reply, in bytes.
const MAX_REFERENCES_BYTES: usize = 4_000;

/// Returns the Message-ID that is derived from a message's id, in angle brackets.
pub fn derived(id: MessageId, domain: &str) -> String {
    format!("<{}@{domain}>", id.0.simple())
}

/// Returns the Message-ID of a stored message, in angle brackets. `own` is the one in its finished MIME, if it has one.
pub fn header_value(id: MessageId, own: Option<&str>, from: &str) -> String {
    match own {
        Some(own) => format!("<{own}>"),
        None => derived(id, from.rsplit_once('@').map_or("", |(_, domain)| domain)),
    }
}

/// Returns an id without white space and angle brackets around it.
pub fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

/// Returns the only id in the value of a `Message-ID` field, without its angle brackets. `None` if the value is not one
/// id of printable ASCII.
pub fn only_id(value: &str) -> Option<&str> {
    let id = value.trim().strip_prefix('<')?.strip_suffix('>')?;
    is_id(id).then_some(id)
}

/// Returns the message and the domain that an id was derived from, if it has the form of a derived one.
pub fn parse_derived(text: &str) -> Option<(MessageId, &str)> {
    let (local, domain) = bare(text).split_once('@')?;
    let has_form = local.len() == 32 && local.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = Uuid::try_parse(local).ok().filter(|_| has_form)?;
    Some((MessageId(id), domain))
}

/// Returns the ids in a `References` or `In-Reply-To` field, without their angle brackets.
pub fn ids(value: &str) -> impl Iterator<Item = &str> {
    value.split('<').skip(1).filter_map(|rest| rest.split_once('>')).map(|(id, _)| id.trim()).filter(|id| is_id(id))
}

fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<' && byte != b'>')
}

/// Returns the `References` of a reply to a message: the message's own `References`, or else the only id in its
/// `In-Reply-To`, followed by its Message-ID. Of a long thread, the first id and the latest ones are kept.
pub fn references(references: Option<&str>, in_reply_to: Option<&str>, message_id: &str) -> String {
    let parent = bare(message_id);
    let mut thread: Vec<&str> = references.map(|value| ids(value).collect()).unwrap_or_default();
    if thread.is_empty() {
        let answered: Vec<&str> = in_reply_to.map(|value| ids(value).collect()).unwrap_or_default();
        thread.extend(answered.first().filter(|_| answered.len() == 1));
    }
    thread.retain(|id| *id != parent);
    thread.push(parent);
    joined(&shortened(&thread))
}

/// Returns the ids in a `References` or `In-Reply-To` field as they are stored for later replies.
pub fn thread(value: &str) -> String {
    joined(&shortened(&ids(value).collect::<Vec<_>>()))
}

/// Returns the first id, the last id, and as many of the ids directly before the last one as fit, in their order.
fn shortened<'a>(thread: &[&'a str]) -> Vec<&'a str> {
    let Some((last, earlier)) = thread.split_last() else { return Vec::new() };
    let mut size = 0;
    let mut fits = |id: &&&str| {
        size += id.len() + "<> ".len();
        size <= MAX_REFERENCES_BYTES
    };
    let _ = fits(&last);
    let mut kept: Vec<&str> = earlier.first().filter(&mut fits).into_iter().copied().collect();
    let latest = earlier.iter().skip(1).rev().take(MAX_REFERENCES - 2).take_while(fits);
    let mut latest: Vec<&str> = latest.copied().collect();
    latest.reverse();
    kept.extend(latest);
    kept.push(last);
    kept
}

fn joined(ids: &[&str]) -> String {
    ids.iter().map(|id| format!("<{id}>")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn derived_id_leads_back_to_the_message() {
        let id = MessageId::new(DateTime::UNIX_EPOCH);
        let text = derived(id, "acme.test");
        assert_eq!(text, format!("<{}@acme.test>", id.0.simple()));
        assert_eq!(header_value(id, None, "\"a@b\"@acme.test"), text);
        for form in [text.as_str(), bare(&text), &format!(" {text}\t")] {
            assert_eq!(parse_derived(form), Some((id, "acme.test")));
        }
        for other in [format!("<{}@acme.test>", id.0), id.0.simple().to_string(), "x@y".into(), String::new()] {
            assert_eq!(parse_derived(&other), None, "{other}");
        }
    }

    #[test]
    fn own_id_is_one_id_in_angle_brackets() {
        assert_eq!(header_value(MessageId::new(DateTime::UNIX_EPOCH), Some("a@b"), "x@acme.test"), "<a@b>");
        assert_eq!(only_id(" <a@b> "), Some("a@b"));
        for value in ["a@b", "<>", "<a b@c>", "<a@b> <c@d>", "<a@b", "<\u{e9}@b>", ""] {
            assert_eq!(only_id(value), None, "{value}");
        }
    }

    #[test]
    fn references_are_those_of_the_message_and_its_id() {
        assert_eq!(references(None, None, "<c@x>"), "<c@x>");
        assert_eq!(references(Some("<a@x>\t<b@x>"), Some("<b@x>"), "<c@x>"), "<a@x> <b@x> <c@x>");
        assert_eq!(references(None, Some("<b@x>"), "<c@x>"), "<b@x> <c@x>");
        assert_eq!(references(None, Some("<a@x> <b@x>"), "<c@x>"), "<c@x>");
        assert_eq!(references(Some("<c@x> <b@x>"), None, "<c@x>"), "<b@x> <c@x>");
        assert_eq!(thread("no id <a@x>, <b c@x><d@x>"), "<a@x> <d@x>");
    }

    #[test]
    fn first_and_latest_ids_of_a_long_thread_stay() {
        let all: Vec<String> = (0..500).map(|n| format!("<{n}@x.test>")).collect();
        let short = references(Some(&all.join(" ")), None, "<last@x.test>");
        let kept: Vec<&str> = short.split(' ').collect();
        assert_eq!((kept.len(), kept[0], kept[1]), (MAX_REFERENCES, "<0@x.test>", "<452@x.test>"));
        assert_eq!(&kept[48..], ["<499@x.test>", "<last@x.test>"]);
    }

    proptest! {
        #[test]
        fn references_are_bounded_and_valid(value in "(<[!-~]{1,400}>[ ,]{0,2}){0,40}", id in "<[a-z]{1,900}@[a-z]{1,20}>") {
            let result = references(Some(&value), None, &id);
            prop_assert!(result.len() <= MAX_REFERENCES_BYTES && result.ends_with(&id));
            prop_assert!(result.split(' ').all(|one| only_id(one).is_some()));
            prop_assert!(!ids(&value).any(|one| one.contains(['<', '>', ' '])));
        }
    }
}
