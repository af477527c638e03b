//! Compares DKIM key records with the expected key, as verifiers parse them (RFC 6376 §3.6.1).

/// Returns the reason why a record does not publish the key of `expected`; `None` if it does.
pub(super) fn fault(expected: &str, found: &str) -> Option<String> {
    if found.contains('"') {
        return Some(
            "The value itself contains quotation marks, so no verifier can parse it: publish it without them. They belong in zone \
             files, around the strings of a record, and not in a DNS provider's form."
                .into(),
        );
    }
    if found.contains('\\') {
        return Some("The value itself contains backslashes: publish it without them.".into());
    }
    let (wanted, published) = match (tags(expected), tags(found)) {
        (Ok(wanted), Ok(published)) => (wanted, published),
        (Err(why), _) | (_, Err(why)) => return Some(format!("Verifiers cannot parse it: {why}. {PUBLISH_AS_SHOWN}")),
    };
    let value_of =
        |tags: &[(String, String)], name: &str| tags.iter().find(|tag| tag.0 == name).map(|tag| tag.1.clone());
    let published_value = |name: &str| value_of(&published, name);
    match published.iter().position(|(name, _)| name == "v") {
        Some(0) if published[0].1 == "DKIM1" => {}
        None => {}
        _ => {
            return Some(format!(
                "Its v= tag is not DKIM1, or not the first tag, so verifiers ignore it. {PUBLISH_AS_SHOWN}"
            ));
        }
    }
    let (expected, key) = (value_of(&wanted, "p").unwrap_or_default(), published_value("p").unwrap_or_default());
    let allows = |name: &str, values: &[&str]| {
        let is_one = |item: &str| values.iter().any(|value| value.eq_ignore_ascii_case(item.trim()));
        published_value(name).is_none_or(|list| list.split(':').any(is_one))
    };
    let why = if key.is_empty() {
        "The record has no key in p=, which means that the key is revoked. Publish the value as shown here."
    } else if key != expected && expected.starts_with(&key) {
        "The key is cut off. A string in a TXT record holds at most 255 characters: publish the value as several strings, \
         \"…\" \"…\", in one record."
    } else if key != expected
        || published_value("k").unwrap_or_else(|| "rsa".into()) != value_of(&wanted, "k").unwrap_or_default()
    {
        "The record contains another key. Replace it with the value as shown here."
    } else if !allows("h", &["sha256"]) || !allows("s", &["*", "email"]) {
        "Its h= or s= tag prevents the key from being used for email with SHA-256: remove these tags."
    } else if published_value("t").is_some_and(|flags| flags.split(':').any(|flag| flag.trim() == "y")) {
        "It has t=y, which means that the domain only tests DKIM: receivers treat its messages as unsigned. Remove t=y."
    } else {
        return None;
    };
    Some(why.into())
}

const PUBLISH_AS_SHOWN: &str = "Publish the value as shown here.";

/// Parses the tags of a record (§3.2): names unchanged, values without white space.
fn tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut tags: Vec<(String, String)> = Vec::new();
    let text = text.trim();
    for tag in text.strip_suffix(';').unwrap_or(text).split(';') {
        let Some((name, value)) = tag.split_once('=') else {
            return Err(match tag.trim() {
                "" => "there are two semicolons in a row".to_owned(),
                tag => format!("`{}` is not a tag: tags are written name=value", shortened(tag)),
            });
        };
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(format!("`{}` is not a valid tag name", shortened(name)));
        }
        if tags.iter().any(|(other, _)| other == name) {
            return Err(format!("there is more than one {name}="));
        }
        tags.push((name.to_owned(), value.split_whitespace().collect()));
    }
    Ok(tags)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
