//! The TXT record under `_mta-sts.DOMAIN` (RFC 8461 §3.1), which announces a policy and its id.

/// Prefix of MTA-STS records; other records under the name are ignored.
const PREFIX: &str = "v=STSv1;";

/// Returns the `id` of the only policy record among these TXT records. Several records, or a malformed one, count as
/// none (RFC 8461 §3.1).
pub(super) fn policy_id<'a>(records: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let mut policies = records.filter(|record| record.starts_with(PREFIX));
    let record = policies.next()?;
    if policies.next().is_some() {
        return None;
    }
    let fields = record[PREFIX.len()..].split(';').map(|field| field.trim_matches([' ', '\t']));
    let mut id = None;
    for field in fields.filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=')?;
        if key == "id" {
            // The first of duplicate fields counts.
            id.get_or_insert(value);
        }
    }
    id.filter(|id| (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id<const N: usize>(records: [&str; N]) -> Option<&str> {
        policy_id(records.into_iter())
    }

    #[test]
    fn the_id_is_parsed() {
        for record in
            ["v=STSv1; id=20160831085700Z;", "v=STSv1;id=20160831085700Z", "v=STSv1; x=1 ;\tid=20160831085700Z ;"]
        {
            assert_eq!(id([record]), Some("20160831085700Z"), "{record}");
        }
        assert_eq!(id(["v=spf1 -all", "v=STSv1; id=a;", "v=STSv11; id=b"]), Some("a"), "other records are ignored");
        assert_eq!(id(["v=STSv1; id=a; id=b"]), Some("a"));
    }

    #[test]
    fn an_invalid_or_duplicate_record_counts_as_none() {
        let long = format!("v=STSv1; id={}", "a".repeat(33));
        for record in ["", "v=STSv1", "v=STSv1; id=", "v=STSv1; id=a-b", "v=STSv1; a", "v=STSv2; id=a", &long] {
            assert_eq!(id([record]), None, "{record}");
        }
        assert_eq!(id(["v=STSv1; id=a", "v=STSv1; id=a"]), None, "two records");
        assert_eq!(id([]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in any::<String>()) {
            let _ = id([&text]);
            let _ = id([&format!("v=STSv1;{text}")]);
        }
    }
}
