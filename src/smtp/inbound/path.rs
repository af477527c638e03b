//! Paths in MAIL and RCPT (RFC 5321 §4.1.2, RFC 6531 §3.3): `<local@domain>`, the null path, old source routes.
//!
//! The parser is lenient where this is harmless (addresses such as `a..b@example.test` exist), and strict where a path
//! could be misread: it allows no spaces, brackets or control characters outside a quoted local part.

/// Maximum length of a path with its brackets (RFC 5321 §4.5.3.1.3).
const PATH_LIMIT: usize = 256;

/// Splits `<path>` off the front, ignoring `>` inside quotes; returns the path and the rest.
pub(super) fn split(text: &str) -> Option<(&str, &str)> {
    let inner = text.strip_prefix('<')?;
    let (mut quoted, mut escaped) = (false, false);
    for (index, byte) in inner.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'>' if !quoted => return Some((inner.get(..index)?, inner.get(index + 1..)?)),
            _ => {}
        }
    }
    None
}

/// Returns the address in a path, without its source route (RFC 5321 appendix C), or `None` if it is invalid.
pub(super) fn address(path: &str) -> Option<&str> {
    if path.len() + 2 > PATH_LIMIT {
        return None;
    }
    let address = match path.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => path,
    };
    let (local, domain) = address.rsplit_once('@')?;
    (is_local(local) && is_domain(domain)).then_some(address)
}

fn is_local(local: &str) -> bool {
    match local.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').is_some_and(is_quoted_content),
        None => !local.is_empty() && !local.chars().any(|c| c.is_whitespace() || "\"(),:;<>[\\]@".contains(c)),
    }
}

/// Returns whether the content has no unescaped quote and no backslash at its end.
fn is_quoted_content(content: &str) -> bool {
    let mut escaped = false;
    for byte in content.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return false,
            _ => {}
        }
    }
    !escaped
}

fn is_domain(domain: &str) -> bool {
    if let Some(literal) = domain.strip_prefix('[') {
        let inner = literal.strip_suffix(']').unwrap_or_default();
        return !inner.is_empty() && inner.bytes().all(|b| b.is_ascii_alphanumeric() || b":.-".contains(&b));
    }
    let is_label = |label: &str| {
        let plain =
            |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || (!c.is_ascii() && !c.is_whitespace());
        !label.is_empty() && label.chars().all(plain)
    };
    domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_in_quotes_does_not_end_a_path() {
        assert_eq!(split("<a@b.test> SIZE=1"), Some(("a@b.test", " SIZE=1")));
        assert_eq!(split(r#"<"a>\"b"@c.test>"#), Some((r#""a>\"b"@c.test"#, "")));
        assert_eq!(split("<>"), Some(("", "")));
        assert_eq!(split("<a@b.test"), None);
        assert_eq!(split("a@b.test"), None);
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for good in [
            "a@b.test",
            "a..b@c.test",
            "b+tok=x@c.test",
            r#""a b"@c.test"#,
            "é@ü.test",
            "a@[127.0.0.1]",
            "a@[IPv6:::1]",
        ] {
            assert_eq!(address(good), Some(good));
        }
        assert_eq!(address("@r1.test,@r2.test:a@b.test"), Some("a@b.test"));
        for bad in [
            "",
            "a",
            "@b.test",
            "a@",
            "a b@c.test",
            "a@b@c.test",
            "a@b..c",
            "a@.b",
            "a@[",
            "a@[]",
            "a@b c.test",
            r#""a"b"@c.test"#,
            r#"""#,
            "<a@b>",
            r#""a\"@b.test"#,
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert_eq!(address(&format!("{}@b.test", "a".repeat(PATH_LIMIT))), None);
    }
}
