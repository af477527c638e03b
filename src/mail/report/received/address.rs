//! Addresses in reports: typed (`rfc822; ann@example.test`), encoded for the envelope (xtext, RFC 3461 §4; RFC 6533
//! §3), and anywhere in a text.

use super::fields::cut;

/// Maximum length of an address.
const LONGEST: usize = 320;
/// Maximum addresses examined per text.
const MAX_ADDRESSES: usize = 1_000;

/// Parses the address of a field such as `Final-Recipient`: without type, brackets and comment, decoded.
pub(in crate::mail::report) fn typed(value: &str) -> Option<String> {
    let value = value.replace('\n', "");
    let value = match value.split_once(';') {
        Some((kind, address)) if !kind.contains('@') => address,
        _ => &value,
    };
    let value = value.trim();
    let value = match (value.find('<'), value.rfind('>')) {
        (Some(start), Some(end)) if start < end => &value[start + 1..end],
        // Cuts a comment, but not a quoted local part.
        _ if value.starts_with('"') => value,
        _ => value.split([' ', '\t', '(']).next().unwrap_or_default(),
    };
    let address = decoded(without_route(cut(value.trim(), LONGEST * 4)));
    let is_address = !address.is_empty() && address.len() <= LONGEST && !address.contains(char::is_control);
    is_address.then_some(address)
}

/// Removes an obsolete source route (`@one.test,@two.test:ann@example.test`).
fn without_route(address: &str) -> &str {
    match address.strip_prefix('@').and_then(|route| route.split_once(':')) {
        Some((_, address)) if !address.is_empty() => address,
        _ => address,
    }
}

/// Decodes xtext (`+2B`) and the form of addresses that are not ASCII (`\x{E9}`). Many reports contain addresses that
/// are not encoded, in which `+20` may be literal, so of xtext only `+` and `=`, which must be encoded, are decoded,
/// unless the `@` is encoded too.
pub(in crate::mail::report) fn decoded(text: &str) -> String {
    let all = !text.contains('@') && text.contains("+40");
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let (decoded, used) = escaped(rest, all).unwrap_or((letter, letter.len_utf8()));
        plain.push(decoded);
        rest = &rest[used..];
    }
    plain
}

/// Returns the character encoded by an escape at the start, and the escape's length.
fn escaped(text: &str, all: bool) -> Option<(char, usize)> {
    if let Some(rest) = text.strip_prefix("\\x{") {
        let (digits, _) = rest.split_once('}').filter(|(digits, _)| (2..=6).contains(&digits.len()))?;
        let letter = char::from_u32(u32::from_str_radix(digits, 16).ok()?).filter(|letter| !letter.is_control())?;
        return Some((letter, digits.len() + 4));
    }
    let digits = text.strip_prefix('+')?.get(..2)?;
    let is_hex = digits.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    let byte = u8::from_str_radix(digits, 16).ok().filter(|_| is_hex)?;
    (matches!(byte, b'+' | b'=') || all && byte.is_ascii_graphic()).then_some((byte.into(), 3))
}

/// Returns the addresses in a text in order, each with its position.
pub(in crate::mail::report) fn all_in(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.match_indices('@').filter_map(|(at, _)| around(text, at)).take(MAX_ADDRESSES)
}

/// Returns the first address in a text.
pub(in crate::mail::report) fn first_in(text: &str) -> Option<&str> {
    all_in(text).next().map(|(_, address)| address)
}

/// Returns the address around the `@` at this position.
fn around(text: &str, at: usize) -> Option<(usize, &str)> {
    let is_local = |c: char| c.is_alphanumeric() || "!#$%&*+/=?^_`{|}~.-'".contains(c);
    let is_domain = |c: char| c.is_alphanumeric() || c == '.' || c == '-';
    let before = &text[text.floor_char_boundary(at.saturating_sub(LONGEST))..at];
    let start = match before.strip_suffix('"').and_then(|quoted| quoted.rfind('"')) {
        Some(quote) => at - before.len() + quote,
        None => at - before.len() + before.trim_end_matches(is_local).len(),
    };
    let after = cut(&text[at + 1..], LONGEST);
    let domain = &after[..after.find(|c| !is_domain(c)).unwrap_or(after.len())];
    let domain = domain.trim_end_matches(['.', '-']);
    let address = text[start..=at].trim_start_matches(['\'', '.', '`', '/', '=']);
    // Exchange writes the address as the last part of an X.400 address, after `smtp=`.
    let address = match address.get(..5) {
        Some(kind) if kind.eq_ignore_ascii_case("smtp=") => &address[5..],
        _ => address,
    };
    let start = at + 1 - address.len();
    let is_address = address.len() > 1 && !domain.is_empty() && !domain.starts_with(['.', '-']);
    // A quoted local part may contain any character, so control characters are checked separately.
    let is_address = is_address && !address.contains(char::is_control);
    is_address.then(|| (start, &text[start..=at + domain.len()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typed_addresses_are_parsed() {
        for (value, address) in [
            ("rfc822; ann@example.test", "ann@example.test"),
            ("RFC822;<ann@example.test>", "ann@example.test"),
            ("rfc822;\n ann@example.test", "ann@example.test"),
            ("ann@example.test", "ann@example.test"),
            ("rfc822; ann+2Btag@example.test", "ann+tag@example.test"),
            ("rfc822; ann+20x@example.test", "ann+20x@example.test"),
            ("rfc822; ann+40example.test", "ann@example.test"),
            ("utf-8; bo\\x{E5}@example.test", "boå@example.test"),
            ("utf-8; boå@example.test", "boå@example.test"),
            ("rfc822; \"ann b\"@example.test", "\"ann b\"@example.test"),
            ("rfc822; ann@example.test (unrecoverable error)", "ann@example.test"),
            ("rfc822;@smtp.example.test,@mx.example.test:ann@server", "ann@server"),
            ("LOCAL; ann", "ann"),
        ] {
            assert_eq!(typed(value).as_deref(), Some(address), "{value}");
        }
        assert_eq!(typed("rfc822; "), None);
        assert_eq!(typed(&format!("rfc822; {}@x", "a".repeat(400))), None);
    }

    #[test]
    fn addresses_are_found_in_text() {
        let found = |text| all_in(text).map(|(_, address)| address).collect::<Vec<_>>();
        assert_eq!(
            found("<ann@example.test>: no, 'bo@x.test'. mailto:c+d@y.test, \"e f\"@z.test"),
            ["ann@example.test", "bo@x.test", "c+d@y.test", "\"e f\"@z.test"]
        );
        assert_eq!(found("@ @x a@ a@. boå@exämple.test"), ["boå@exämple.test"]);
        assert_eq!(found("\"a\n\0b\"@x.test"), [""; 0]);
    }
}
