//! Parses the header `Content-Disposition` of a part (RFC 7578 §4.2).

/// Returns the parameter `name` of a `form-data` disposition; `None` if it is missing, repeated or malformed. A `name`
/// within the value of another parameter, such as the name of a file, does not count.
pub(super) fn name(disposition: &str) -> Option<String> {
    let (kind, mut rest) = disposition.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("form-data") {
        return None;
    }
    let mut name = None;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return name;
        }
        let (key, after) = rest.split_once('=')?;
        let (value, after) = value(after.trim_start())?;
        if key.trim().eq_ignore_ascii_case("name") && name.replace(value).is_some() {
            return None;
        }
        rest = after.trim_start();
        if !rest.is_empty() && !rest.starts_with(';') {
            return None;
        }
    }
}

/// Parses a value, quoted or not. Returns it with the text after it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(';').unwrap_or(text.len());
        return Some((text[..end].trim_end().to_owned(), &text[end..]));
    };
    let (mut value, mut chars) = (String::new(), quoted.char_indices().peekable());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            // Other backslashes belong to a path in the name of a file.
            '\\' => match chars.next_if(|(_, next)| matches!(next, '"' | '\\')) {
                Some((_, escaped)) => value.push(escaped),
                None => value.push('\\'),
            },
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_found_among_other_parameters() {
        for (text, expected) in [
            ("form-data; name=\"invoice\"", "invoice"),
            ("form-data; name=invoice", "invoice"),
            ("Form-Data;NAME = \"a b\" ; filename=\"x.pdf\"", "a b"),
            ("form-data; filename=\"x; name=evil.pdf\"; name=\"good\"", "good"),
            ("form-data; filename=\"\\\"; name=\\\"evil\"; name=good;", "good"),
            ("form-data; filename=\"C:\\dir\\x.pdf\"; filename*=UTF-8''x; name=\"a\"", "a"),
            ("form-data; name=\"Größe\\\\\\\"\"", "Größe\\\""),
            ("form-data; name=\"\"", ""),
        ] {
            assert_eq!(name(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn malformed_disposition_has_no_name() {
        for text in [
            "",
            "form-data",
            "form-data; filename=\"name=x\"",
            "attachment; name=\"a\"",
            "form-data; name",
            "form-data; name=\"a",
            "form-data; name=\"a\"b",
            "form-data; name=\"a\"; name=\"b\"",
            "form-data; filename=\"a\"; name=\"b\" c=d",
        ] {
            assert_eq!(name(text), None, "{text}");
        }
    }
}
