//! Address lists: `From`, `To`, `Cc`, `Reply-To` (RFC 5322 §3.4).
//!
//! lettre's `Mailboxes` is not used: it writes addresses without names onto one line, however many there are, and
//! parses every address a second time.

use super::encoded_word;
use super::field::{Field, has_odd_spaces, is_printable};
use crate::domain::address::Mailbox;
use crate::mail::encoding::normalise::single_line;

/// Maximum length of a quoted name. Not all mail clients unfold quoted names, so a longer one is written as
/// encoded-words, which can be folded.
const LONGEST_QUOTED: usize = 60;

/// Writes an address list; writes nothing if it is empty.
pub(in crate::mail) fn write(out: &mut Vec<u8>, header: &str, mailboxes: &[Mailbox]) {
    if mailboxes.is_empty() {
        return;
    }
    let mut field = Field::new(out, header);
    for (index, mailbox) in mailboxes.iter().enumerate() {
        let comma = if index + 1 < mailboxes.len() { "," } else { "" };
        let local = single_line(mailbox.address.local());
        let domain = single_line(mailbox.address.domain());
        match mailbox.name.as_deref().filter(|name| !name.trim().is_empty()) {
            Some(name) => {
                phrase(&mut field, &single_line(name));
                field.word(&["<", &local, "@", &domain, ">", comma]);
            }
            None => field.word(&[&local, "@", &domain, comma]),
        }
    }
    field.end();
}

/// Writes a display name: plain, in quotes, or as encoded-words.
pub(in crate::mail) fn phrase(field: &mut Field<'_>, name: &str) {
    if !is_printable(name) || has_odd_spaces(name) || encoded_word::looks_encoded(name) {
        field.encoded(name);
    } else if name.split(' ').all(|word| word.len() <= LONGEST_QUOTED && word.bytes().all(is_atext)) {
        field.words(name);
    } else if name.len() <= LONGEST_QUOTED {
        field.word(&["\"", &name.replace('\\', "\\\\").replace('"', "\\\""), "\""]);
    } else {
        field.encoded(name);
    }
}

/// Returns whether a byte may be in an atom (RFC 5322 §3.2.3).
fn is_atext(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox(name: &str, address: &str) -> Mailbox {
        Mailbox { address: address.parse().unwrap(), name: Some(name.into()) }
    }

    fn to(mailboxes: &[Mailbox]) -> String {
        let mut out = Vec::new();
        write(&mut out, "To", mailboxes);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn name_is_written_in_the_simplest_valid_form() {
        assert_eq!(to(&[mailbox("Ann Lee", "a@b.test")]), "To: Ann Lee <a@b.test>\r\n");
        assert_eq!(to(&[mailbox("Lee, Ann", "a@b.test")]), "To: \"Lee, Ann\" <a@b.test>\r\n");
        assert_eq!(to(&[mailbox("a \"b\" \\", "a@b.test")]), "To: \"a \\\"b\\\" \\\\\" <a@b.test>\r\n");
        assert_eq!(to(&[mailbox("Bo Å", "a@b.test")]), "To: =?utf-8?q?Bo_=C3=85?= <a@b.test>\r\n");
        assert_eq!(to(&[mailbox(" ", "a@b.test")]), "To: a@b.test\r\n");
        assert_eq!(to(&[]), "");
    }

    #[test]
    fn name_cannot_add_a_recipient_or_a_header() {
        assert_eq!(to(&[mailbox("x <e@vil.test>,", "a@b.test")]), "To: \"x <e@vil.test>,\" <a@b.test>\r\n");
        assert_eq!(
            to(&[mailbox("x\r\nBcc: e@vil.test", "a@b.test")]),
            "To: =?utf-8?q?x__Bcc=3A_e=40vil=2Etest?= <a@b.test>\r\n"
        );
    }

    #[test]
    fn address_list_is_folded_between_addresses() {
        let many: Vec<_> = (0..50)
            .map(|n| Mailbox { address: format!("recipient{n}@example.test").parse().unwrap(), name: None })
            .collect();
        let folded = to(&many);
        assert!(folded.lines().all(|line| line.len() <= 76));
        assert_eq!(folded.matches('@').count(), 50);
    }

    #[test]
    fn very_long_name_is_folded() {
        for name in ["n".repeat(300), "N. ".repeat(100) + "e", "é".repeat(300)] {
            assert!(to(&[mailbox(&name, "a@b.test")]).lines().all(|line| line.len() <= 76));
        }
    }

    #[test]
    fn non_ascii_local_part_is_not_encoded() {
        assert_eq!(to(&[mailbox("Ü", "jürgen@b.test")]), "To: =?utf-8?b?w5w=?= <jürgen@b.test>\r\n");
    }
}
