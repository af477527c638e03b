//! Ids of inline parts. A `Content-ID` has the syntax of a message id, with an `@` (RFC 2045 §7), but applications pass
//! `logo` and link to `cid:logo`. Such an id is extended by `@` and the sender's domain, in the part and in every link
//! to it (RFC 2392 §2).

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// Returns the id as it is written in the part, with the domain if it has none.
pub(in crate::mail) fn with_domain<'i>(id: &'i str, domain: &str) -> Cow<'i, str> {
    if is_bare(id) { Cow::Owned(format!("{id}@{domain}")) } else { Cow::Borrowed(id) }
}

/// Returns whether an id has no `@` and only characters with which [`complete_links`] finds every link to it. Other ids
/// are not changed.
fn is_bare(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~+=-$!*".contains(&byte))
}

/// Returns `html` with its links to bare `ids` extended by the domain.
pub(in crate::mail) fn complete_links<'h, 'i>(
    html: &'h str,
    ids: impl Iterator<Item = &'i str>,
    domain: &str,
) -> Cow<'h, str> {
    let ids: Vec<&str> = ids.filter(|id| is_bare(id)).collect();
    if ids.is_empty() {
        return Cow::Borrowed(html);
    }
    let mut linked = String::new();
    let mut written = 0;
    // Schemes are case-insensitive, and colons are rare enough to check each `:`.
    for colon in memchr::memchr_iter(b':', html.as_bytes()) {
        let is_cid = html.get(colon.saturating_sub(3)..colon).is_some_and(|scheme| scheme.eq_ignore_ascii_case("cid"));
        let rest = &html[colon + 1..];
        let end = rest.find(|c: char| c.is_whitespace() || "\"'<>()&#?;,`".contains(c)).unwrap_or(rest.len());
        if is_cid && ids.iter().any(|id| percent_decode_str(&rest[..end]).eq(id.bytes())) {
            linked.push_str(&html[written..colon + 1 + end]);
            linked.push('@');
            linked.push_str(domain);
            written = colon + 1 + end;
        }
    }
    if written == 0 {
        return Cow::Borrowed(html);
    }
    linked.push_str(&html[written..]);
    Cow::Owned(linked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_id_gets_the_domain_in_parts_and_links() {
        let linked = |html: &'static str| complete_links(html, ["logo", "a+b.png", "x@y"].into_iter(), "acme.test");
        assert_eq!(with_domain("logo", "acme.test"), "logo@acme.test");
        assert_eq!(linked("<img src=\"cid:logo\">"), "<img src=\"cid:logo@acme.test\">");
        assert_eq!(linked("url(CID:a%2Bb.png) 'cid:logo'"), "url(CID:a%2Bb.png@acme.test) 'cid:logo@acme.test'");
        for html in ["cid:logo2", "cid:logo@acme.test", "cid:x@y", "acid: logo", "cid:", ":logo", "é:cid"] {
            assert_eq!(linked(html), html);
        }
        for id in ["x@y", "a'b", "a%20b", ""] {
            assert_eq!(with_domain(id, "acme.test"), id);
        }
    }
}
