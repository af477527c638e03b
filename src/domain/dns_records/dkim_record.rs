//! DKIM key records as RFC 6376 §3.6.1 has verifiers read them, held against the key that is to be there.

/// Why a record does not publish `expected` (the value that is to stand there); `None` where it does.
pub(super) fn fault(expected: &str, found: &str) -> Option<String> {
    if found.contains('"') {
        return Some(
            "The value itself holds quotation marks, so no verifier can read it: publish it without them. They belong to zone \
             files, around the strings of a record, and not into a DNS provider's form."
                .into(),
        );
    }
    if found.contains('\\') {
        return Some("The value itself holds backslashes: publish it without them.".into());
    }
    let (ours, theirs) = match (tags(expected), tags(found)) {
        (Ok(ours), Ok(theirs)) => (ours, theirs),
        (Err(why), _) | (_, Err(why)) => return Some(format!("Verifiers cannot read it: {why}. {AS_IT_STANDS}")),
    };
    let is = |tags: &[(String, String)], name: &str| tags.iter().find(|tag| tag.0 == name).map(|tag| tag.1.clone());
    let theirs_is = |name: &str| is(&theirs, name);
    match theirs.iter().position(|(name, _)| name == "v") {
        Some(0) if theirs[0].1 == "DKIM1" => {}
        None => {}
        _ => {
            return Some(format!(
                "Its v= is not DKIM1, or not the first of its tags, so verifiers pass over it. {AS_IT_STANDS}"
            ));
        }
    }
    let (expected, key) = (is(&ours, "p").unwrap_or_default(), theirs_is("p").unwrap_or_default());
    let lists = |name: &str, one_of: &[&str]| {
        let is_one = |word: &str| one_of.iter().any(|known| known.eq_ignore_ascii_case(word.trim()));
        theirs_is(name).is_none_or(|list| list.split(':').any(is_one))
    };
    let why = if key.is_empty() {
        "The record has no key in p=, which means that the key is withdrawn. Publish the value as it stands here."
    } else if key != expected && expected.starts_with(&key) {
        "The key is cut off. A string in a TXT record holds at most 255 characters: publish the value as several strings, \
         \"…\" \"…\", in one record."
    } else if key != expected || theirs_is("k").unwrap_or_else(|| "rsa".into()) != is(&ours, "k").unwrap_or_default() {
        "The record holds another key. Replace it by the value as it stands here."
    } else if !lists("h", &["sha256"]) || !lists("s", &["*", "email"]) {
        "Its h= or s= tag keeps the key from being used for mail with SHA-256: leave these tags out."
    } else if theirs_is("t").is_some_and(|flags| flags.split(':').any(|flag| flag.trim() == "y")) {
        "It says t=y, that the domain is only testing: receivers are to treat its messages as if they were not signed. Leave \
         t=y out."
    } else {
        return None;
    };
    Some(why.into())
}

const AS_IT_STANDS: &str = "Publish the value as it stands here.";

/// The tags of a record (§3.2): names as they are written, the white space in values left out.
fn tags(text: &str) -> Result<Vec<(String, String)>, String> {
    let mut tags: Vec<(String, String)> = Vec::new();
    let text = text.trim();
    for tag in text.strip_suffix(';').unwrap_or(text).split(';') {
        let Some((name, value)) = tag.split_once('=') else {
            return Err(match tag.trim() {
                "" => "two semicolons stand beside each other".to_owned(),
                tag => format!("`{}` is no tag: one is written name=value", shortened(tag)),
            });
        };
        let name = name.trim();
        let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_name {
            return Err(format!("`{}` is no name of a tag", shortened(name)));
        }
        if tags.iter().any(|(known, _)| known == name) {
            return Err(format!("{name}= stands there twice"));
        }
        tags.push((name.to_owned(), value.split_whitespace().collect()));
    }
    Ok(tags)
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
