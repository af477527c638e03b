//! The syntax of header fields, and the rules for values that a sender sets.
//!
//! RFC 2047 §5 allows encoded-words only in free text and in phrases: receivers do not decode message ids,
//! addresses, URLs or keywords. Pure; `mail` writes these fields, `accept` checks them.

/// The maximum length of a line in a message, in bytes without CRLF (RFC 5322 §2.1.1).
pub const MAX_LINE: usize = 998;

/// The syntax of a field's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Free text: `Subject`, `Comments`, and every unknown field.
    Text,
    /// A phrase, followed by a structured value in angle brackets: `List-Id`, `Errors-To`.
    Phrase,
    /// Ids, URLs or keywords, of which no part may be encoded.
    Structured,
}

/// Fields of [`Syntax::Phrase`], in lower case.
const PHRASES: [&str; 7] = [
    "list-id",
    "disposition-notification-to",
    "return-receipt-to",
    "errors-to",
    "mail-reply-to",
    "mail-followup-to",
    "x-confirm-reading-to",
];

/// Fields of [`Syntax::Structured`], in lower case; `*` matches any ending.
const STRUCTURED: [&str; 50] = [
    "accept-language",
    "archived-at",
    "auto-submitted",
    "autocrypt",
    "bimi-*",
    "cfbl-*",
    "content-*",
    "date",
    "deferred-delivery",
    "delivered-to",
    "distribution",
    "dkim-*",
    "encoding",
    "encrypted",
    "expires",
    "expiry-date",
    "face",
    "feedback-id",
    "followup-to",
    "importance",
    "in-reply-to",
    "jabber-id",
    "language",
    "latest-delivery-time",
    "list-*",
    "message-id",
    "mime-version",
    "mt-priority",
    "newsgroups",
    "obsoletes",
    "original-message-id",
    "original-recipient",
    "precedence",
    "priority",
    "received",
    "references",
    "reply-by",
    "require-recipient-valid-since",
    "resent-*",
    "return-path",
    "sensitivity",
    "supersedes",
    "tls-required",
    "vbr-info",
    "x-auto-response-suppress",
    "x-face",
    "x-msmail-priority",
    "x-original-message-id",
    "x-priority",
    "xref",
];

/// Returns the syntax of a field, by its name in any case.
pub fn syntax(name: &str) -> Syntax {
    if PHRASES.iter().any(|known| known.eq_ignore_ascii_case(name)) {
        return Syntax::Phrase;
    }
    let is_known = |known: &&str| match known.strip_suffix('*') {
        Some(start) => name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start)),
        None => known.eq_ignore_ascii_case(name),
    };
    if STRUCTURED.iter().any(is_known) { Syntax::Structured } else { Syntax::Text }
}

/// Splits a value at its last `<` into the phrase and the rest. Without a `<`, the rest is the whole value.
pub fn phrase_and_rest(value: &str) -> (&str, &str) {
    let (phrase, rest) = value.rfind('<').map_or(("", value), |start| value.split_at(start));
    (phrase.trim(), rest.trim())
}

/// Returns the parts of a structured value that cannot be folded. They are separated by white space, or by `,` or `><`
/// outside angle brackets, where white space may be added.
pub fn unbreakable_parts(value: &str) -> impl Iterator<Item = &str> {
    value.split(char::is_whitespace).filter(|word| !word.is_empty()).flat_map(|word| {
        let mut rest = word;
        std::iter::from_fn(move || {
            let (part, after) = rest.split_at(end_of_part(rest));
            rest = after;
            (!part.is_empty()).then_some(part)
        })
    })
}

/// Returns the end of the first part of a word without white space.
fn end_of_part(word: &str) -> usize {
    let mut is_inside = false;
    let bytes = word.as_bytes();
    for (index, byte) in bytes.iter().enumerate() {
        match byte {
            b'<' => is_inside = true,
            b'>' => {
                is_inside = false;
                if bytes.get(index + 1) == Some(&b'<') {
                    return index + 1;
                }
            }
            b',' if !is_inside => return index + 1,
            _ => {}
        }
    }
    word.len()
}

/// Returns the reason why a value is not allowed in the field, for the sender; `None` if it is allowed.
pub fn fault(name: &str, value: &str) -> Option<String> {
    let structured = match syntax(name) {
        Syntax::Text => return None,
        Syntax::Phrase => phrase_and_rest(value).1,
        Syntax::Structured => value,
    };
    if let Some(c) = structured.chars().find(|c| !c.is_ascii()) {
        return Some(format!(
            "`{name}` must not contain `{c}`: only ASCII is allowed; percent-encode it in a URL, and write a domain as xn--…"
        ));
    }
    // The first part is on the same line as the name; every other part can have its own line.
    let longest = |index| MAX_LINE - if index == 0 { name.len() + ": ".len() } else { 1 };
    let mut parts = unbreakable_parts(structured).enumerate();
    let (index, part) = parts.find(|(index, part)| part.len() > longest(*index))?;
    Some(format!(
        "a part without white space has {} characters, but must fit on one line of a message; at most {} fit here",
        part.len(),
        longest(index)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_looked_up_in_any_case() {
        for name in ["In-Reply-To", "REFERENCES", "List-Unsubscribe", "list-post", "Feedback-ID", "Content-ID"] {
            assert_eq!(syntax(name), Syntax::Structured, "{name}");
        }
        assert_eq!(syntax("List-ID"), Syntax::Phrase);
        for name in ["Subject", "Comments", "X-Entity-Ref", "Lists", "Referenc\u{e9}s", "List"] {
            assert_eq!(syntax(name), Syntax::Text, "{name}");
        }
    }

    #[test]
    fn parts_end_where_white_space_may_be_added() {
        let parts = |value| unbreakable_parts(value).collect::<Vec<_>>();
        assert_eq!(parts(" <a@b><c@d>\t <e> "), ["<a@b>", "<c@d>", "<e>"]);
        assert_eq!(
            parts("<https://a.test/?x=1,2>,<mailto:u@a.test>"),
            ["<https://a.test/?x=1,2>,", "<mailto:u@a.test>"]
        );
        assert_eq!(parts("auto-generated"), ["auto-generated"]);
        assert_eq!(parts("  "), [""; 0]);
    }

    #[test]
    fn part_must_fit_on_one_line() {
        let url = |length: usize| format!("<https://a.test/{}>", "u".repeat(length - 17));
        let longest = MAX_LINE - "List-Unsubscribe: ".len();
        assert_eq!(fault("List-Unsubscribe", &url(longest)), None);
        assert!(fault("List-Unsubscribe", &url(longest + 1)).is_some_and(|why| why.contains("at most 980")));
        assert_eq!(fault("List-Unsubscribe", &format!("<mailto:a@b.test>,{}", url(997))), None);
        assert_eq!(fault("X-Text", &url(2_000)), None);
        assert!(fault("References", "<\u{e9}@b>").is_some_and(|why| why.contains('\u{e9}')));
        assert_eq!(fault("List-Id", "B\u{fc}cher <books.acme.test>"), None);
        assert!(fault("List-Id", "Books <b\u{fc}cher.acme.test>").is_some());
    }
}
