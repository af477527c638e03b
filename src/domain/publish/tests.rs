//! What is told of records, case by case.

use proptest::prelude::*;

use super::*;

fn terms(return_path: Option<&str>) -> Terms {
    Terms {
        hostname: "mail.acme.test".into(),
        spf: "a:mail.acme.test".into(),
        return_path: return_path.map(str::to_owned),
        algorithms: Algorithm::ALL.to_vec(),
    }
}

fn key(selector: &str, algorithm: Algorithm, state: KeyState) -> PublishedKey {
    PublishedKey { selector: selector.into(), algorithm, state, public: vec![7; 294] }
}

fn record(purpose: Purpose) -> Record {
    let keys = [key("a", Algorithm::Rsa, KeyState::Active)];
    let all = records(&terms(Some("bounce.acme.test")), "acme.test", &keys);
    all.into_iter().find(|record| record.purpose == purpose).unwrap()
}

fn judged(purpose: Purpose, found: &[&str]) -> Finding {
    let record = record(purpose);
    let at = record.name.clone();
    judge(record, &at, Ok(found.iter().map(ToString::to_string).collect()))
}

#[test]
fn the_records_of_a_domain_with_a_return_path_of_its_own() {
    let keys = [key("a", Algorithm::Ed25519, KeyState::Active), key("b", Algorithm::Rsa, KeyState::Active)];
    let all = records(&terms(Some("bounce.acme.test")), "acme.test", &keys);
    let shown: Vec<(Purpose, &str)> = all.iter().map(|record| (record.purpose, record.name.as_str())).collect();
    let expected = [
        (Purpose::Dkim, "a._domainkey.acme.test"),
        (Purpose::Dkim, "b._domainkey.acme.test"),
        (Purpose::Spf, "acme.test"),
        (Purpose::Dmarc, "_dmarc.acme.test"),
        (Purpose::ReturnPath, "bounce.acme.test"),
        (Purpose::ReturnPathSpf, "bounce.acme.test"),
    ];
    assert_eq!(shown, expected);
    assert_eq!((all[4].kind, all[4].value.as_str()), (RecordType::Mx, "10 mail.acme.test."));
    assert_eq!(records(&terms(None), "acme.test", &[]).len(), 2);
    let literal = Terms { hostname: "[192.0.2.1]".into(), ..terms(Some("bounce.acme.test")) };
    assert!(records(&literal, "acme.test", &[]).iter().all(|record| record.kind == RecordType::Txt));
}

#[test]
fn a_key_that_is_published_is_seen_however_it_is_written() {
    let value = record(Purpose::Dkim).value;
    let spaced = value.replace("; ", " ;\t").replace("p=", "p = ");
    for found in [&value, &spaced, &format!("\"{value}\""), &format!("{value}; t=y; h=sha1:sha256; s=email; n=note")] {
        assert_eq!(judged(Purpose::Dkim, &[found]).status, RecordStatus::Ok, "{found}");
    }
}

#[test]
fn what_is_wrong_with_a_key_is_told() {
    let value = record(Purpose::Dkim).value;
    let cut = &value[..200];
    for (found, word) in [
        (vec![], "Publish a TXT record at a._domainkey.acme.test: v=DKIM1; k=rsa; p=BwcH"),
        (vec![cut], "cut off"),
        (vec!["v=DKIM1; k=rsa; p=AAAA"], "another key"),
        (vec![&*value.replace("k=rsa", "k=ed25519")], "another key"),
        (vec!["v=DKIM1; p="], "withdrawn"),
        (vec![&*format!("{value}; h=sha1")], "SHA-256"),
        (vec![&*format!("{value}; s=other")], "SHA-256"),
        (vec![&*value, &*value], "There are 2"),
        (vec!["hello"], "no key"),
    ] {
        let finding = judged(Purpose::Dkim, &found);
        let mend = finding.mend.unwrap();
        assert!(finding.status != RecordStatus::Ok && mend.contains(word), "{found:?}: {mend}");
    }
}

#[test]
fn spf_must_name_us_before_its_end_and_once() {
    for found in ["v=spf1 a:mail.acme.test -all", "V=SPF1 ip4:192.0.2.1 +A:Mail.acme.test ?all"] {
        assert_eq!(judged(Purpose::Spf, &["other=1", found]).status, RecordStatus::Ok, "{found}");
    }
    for (found, mend) in [
        ("v=spf1 include:x.test -all", "v=spf1 a:mail.acme.test include:x.test -all."),
        ("v=spf1 -all a:mail.acme.test", "v=spf1 a:mail.acme.test -all a:mail.acme.test."),
        ("v=spf1 -a:mail.acme.test ~all", "v=spf1 a:mail.acme.test -a:mail.acme.test ~all."),
        ("v=spf1", "v=spf1 a:mail.acme.test ~all."),
    ] {
        let finding = judged(Purpose::Spf, &[found]);
        assert_eq!(finding.status, RecordStatus::Wrong);
        assert!(finding.mend.as_ref().unwrap().contains(mend), "{finding:?}");
    }
    let two = judged(Purpose::Spf, &["v=spf1 a:mail.acme.test -all", "v=spf1 -all"]);
    assert_eq!((two.status, two.found.len()), (RecordStatus::Wrong, 2));
    assert_eq!(judged(Purpose::Spf, &["v=spf10 a:mail.acme.test"]).status, RecordStatus::Missing);
}

#[test]
fn dmarc_is_inherited_and_subdomains_have_their_own_word() {
    let keys: [PublishedKey; 0] = [];
    let policy = |at: &str, found: &[&str]| {
        let record = records(&terms(None), "news.acme.test", &keys).remove(1);
        assert_eq!(record.names(), ["_dmarc.news.acme.test", "_dmarc.acme.test"]);
        let finding = judge(record, at, Ok(found.iter().map(ToString::to_string).collect()));
        (finding.status, Verdict::of(&terms(None), "news.acme.test", &keys, vec![finding]).dmarc)
    };
    let own = "_dmarc.news.acme.test";
    assert_eq!(policy(own, &["v=DMARC1; p=Reject"]), (RecordStatus::Ok, Some(Some(DmarcPolicy::Reject))));
    assert_eq!(policy(own, &["v=DMARC1;p=none;sp=reject"]), (RecordStatus::Ok, Some(Some(DmarcPolicy::None))));
    let parent = "_dmarc.acme.test";
    assert_eq!(policy(parent, &["v=DMARC1;p=none;sp=reject"]), (RecordStatus::Ok, Some(Some(DmarcPolicy::Reject))));
    assert_eq!(policy(parent, &["v=DMARC1; p=quarantine"]), (RecordStatus::Ok, Some(Some(DmarcPolicy::Quarantine))));
    assert_eq!(policy(parent, &[]), (RecordStatus::Missing, Some(None)));
    assert_eq!(policy(own, &["v=DMARC1; p=sometimes"]), (RecordStatus::Wrong, Some(None)));
}

#[test]
fn bounces_must_come_here_and_nowhere_else() {
    assert_eq!(judged(Purpose::ReturnPath, &["5 Mail.acme.test."]).status, RecordStatus::Ok);
    assert_eq!(judged(Purpose::ReturnPath, &[]).status, RecordStatus::Missing);
    let both = judged(Purpose::ReturnPath, &["10 mail.acme.test.", "20 other.test."]);
    assert!(both.status == RecordStatus::Wrong && both.mend.unwrap().contains("mail.acme.test be the only"));
}

#[test]
fn a_domain_is_verified_by_all_that_signs_and_by_nothing_else() {
    use RecordStatus::{Missing, Ok, Unanswered, Wrong};

    let keys = [
        key("ed", Algorithm::Ed25519, KeyState::Active),
        key("rsa", Algorithm::Rsa, KeyState::Active),
        key("next", Algorithm::Rsa, KeyState::Pending),
        key("old", Algorithm::Rsa, KeyState::Retiring),
    ];
    let verdict = |terms: &Terms, status: [RecordStatus; 4]| {
        let all = records(terms, "acme.test", &keys).into_iter().take(4);
        let findings = all.zip(status).map(|(record, status)| record.found(status, Vec::new(), None)).collect();
        let verdict = Verdict::of(terms, "acme.test", &keys, findings);
        (verdict.is_verified, verdict.seen.len())
    };
    let both = terms(None);
    assert_eq!(verdict(&both, [Ok, Ok, Missing, Missing]), (Some(true), 0));
    assert_eq!(verdict(&both, [Ok, Wrong, Ok, Ok]), (Some(false), 1));
    assert_eq!(verdict(&both, [Ok, Unanswered, Unanswered, Ok]), (None, 0));
    assert_eq!(verdict(&both, [Missing, Unanswered, Ok, Ok]), (Some(false), 1));
    let rsa = Terms { algorithms: vec![Algorithm::Rsa], ..terms(None) };
    assert_eq!(verdict(&rsa, [Missing, Ok, Missing, Ok]), (Some(true), 0));
    let none = Terms { algorithms: Vec::new(), ..terms(None) };
    assert_eq!(verdict(&none, [Ok, Ok, Missing, Ok]), (Some(true), 0), "that nothing signs is another matter");
    assert_eq!(verdict(&none, [Missing, Ok, Missing, Ok]), (Some(false), 0));
}

#[test]
fn a_pending_key_is_looked_for_soon_if_it_is_to_sign() {
    let keys = [key("rsa", Algorithm::Rsa, KeyState::Active), key("next", Algorithm::Ed25519, KeyState::Pending)];
    let next = |terms: &Terms, status: RecordStatus| {
        let all = records(terms, "acme.test", &keys).into_iter().take(2);
        let findings =
            all.zip([RecordStatus::Ok, status]).map(|(record, status)| record.found(status, Vec::new(), None));
        Verdict::of(terms, "acme.test", &keys, findings.collect()).next_check(terms, &keys)
    };
    let (both, rsa) = (terms(None), Terms { algorithms: vec![Algorithm::Rsa], ..terms(None) });
    assert_eq!((next(&both, RecordStatus::Missing), next(&both, RecordStatus::Ok)), (UNSETTLED, SETTLED));
    assert_eq!(next(&rsa, RecordStatus::Missing), SETTLED);
}

#[test]
fn alignment_is_relaxed() {
    for (domain, return_path) in
        [("acme.test", "acme.test"), ("acme.test", "b.acme.test"), ("news.acme.test", "acme.test")]
    {
        assert!(is_aligned(domain, return_path), "{domain} {return_path}");
    }
    assert!(!is_aligned("acme.test", "bounces.test") && !is_aligned("acme.test", "notacme.test"));
    assert!(is_aligned("news.acme.test", "bounces.acme.test") && is_aligned("a.b.acme.test", "c.b.acme.test"));
    assert!(!is_aligned("news.acme.test", "acme.bounces.test") && !is_aligned("localhost", "a.localhost.test"));
    assert_eq!(lineage("a.b.acme.test"), ["a.b.acme.test", "b.acme.test", "acme.test"]);
    assert_eq!(lineage("localhost"), ["localhost"]);
}

proptest! {
    /// Whatever stands in the DNS, it is judged.
    #[test]
    fn nothing_found_is_too_strange(found in proptest::collection::vec("\\PC{0,40}|v=spf1.{0,20}|v=DMARC1;.{0,20}", 0..3)) {
        for purpose in [Purpose::Dkim, Purpose::Spf, Purpose::Dmarc, Purpose::ReturnPath, Purpose::ReturnPathSpf] {
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            let finding = judged(purpose, &found);
            prop_assert_eq!(finding.status == RecordStatus::Ok, finding.mend.is_none());
        }
    }
}
