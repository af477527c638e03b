//! Tests of findings and verdicts.

use proptest::prelude::*;

use super::spf::SpfResult;
use super::*;

fn settings(return_path: Option<&str>) -> DnsSettings {
    DnsSettings {
        hostname: "mail.acme.test".into(),
        spf: "a:mail.acme.test".into(),
        return_path: return_path.map(str::to_owned),
        algorithms: Algorithm::ALL.to_vec(),
        is_direct: false,
    }
}

fn key(selector: &str, algorithm: Algorithm, state: KeyState) -> PublishedKey {
    PublishedKey { selector: selector.into(), algorithm, state, public: vec![7; 294] }
}

fn record(purpose: Purpose) -> Record {
    let keys = [key("a", Algorithm::Rsa, KeyState::Active)];
    let all = records(&settings(Some("bounce.acme.test")), "acme.test", &keys);
    all.into_iter().find(|record| record.purpose == purpose).unwrap()
}

fn judged(purpose: Purpose, found: &[&str]) -> Finding {
    judged_by(purpose, found, &Evidence::None)
}

fn judged_by(purpose: Purpose, found: &[&str], evidence: &Evidence) -> Finding {
    let record = record(purpose);
    let at = record.name.clone();
    judge(record, &at, Ok(found.iter().map(ToString::to_string).collect()), evidence)
}

#[test]
fn domain_with_own_return_path_has_six_records() {
    let keys = [key("a", Algorithm::Ed25519, KeyState::Active), key("b", Algorithm::Rsa, KeyState::Active)];
    let all = records(&settings(Some("bounce.acme.test")), "acme.test", &keys);
    let listed: Vec<(Purpose, &str)> = all.iter().map(|record| (record.purpose, record.name.as_str())).collect();
    let expected = [
        (Purpose::Dkim, "a._domainkey.acme.test"),
        (Purpose::Dkim, "b._domainkey.acme.test"),
        (Purpose::Spf, "acme.test"),
        (Purpose::Dmarc, "_dmarc.acme.test"),
        (Purpose::ReturnPath, "bounce.acme.test"),
        (Purpose::ReturnPathSpf, "bounce.acme.test"),
    ];
    assert_eq!(listed, expected);
    assert_eq!((all[4].kind, all[4].value.as_str()), (RecordType::Mx, "10 mail.acme.test."));
    assert_eq!(records(&settings(None), "acme.test", &[]).len(), 2);
    let literal = DnsSettings { hostname: "[192.0.2.1]".into(), ..settings(Some("bounce.acme.test")) };
    assert!(records(&literal, "acme.test", &[]).iter().all(|record| record.kind == RecordType::Txt));
}

#[test]
fn published_key_is_found_in_any_notation() {
    let value = record(Purpose::Dkim).value;
    let spaced = value.replace("; ", " ;\t").replace("p=", "p = ");
    let more = format!("{value}; t=s; h=sha1:sha256; s=email; n=note; x_y=1;");
    let without = value.replace("v=DKIM1; ", "").replace("k=rsa; ", "");
    for found in [&value, &spaced, &more, &without] {
        assert_eq!(judged(Purpose::Dkim, &[found]).status, RecordStatus::Ok, "{found}");
    }
}

#[test]
fn wrong_key_record_has_a_fix() {
    let value = record(Purpose::Dkim).value;
    let cut = &value[..200];
    for (found, text) in [
        (vec![], "Publish a TXT record at a._domainkey.acme.test: v=DKIM1; k=rsa; p=BwcH"),
        (vec![cut], "cut off"),
        (vec!["v=DKIM1; k=rsa; p=AAAA"], "another key"),
        (vec![&*value.replace("k=rsa", "k=ed25519")], "another key"),
        (vec!["v=DKIM1; p="], "revoked"),
        (vec![&*format!("{value}; h=sha1")], "SHA-256"),
        (vec![&*format!("{value}; s=other")], "SHA-256"),
        (vec![&*value, &*value], "There are 2"),
        (vec!["hello"], "`hello` is not a tag"),
        (vec![&*format!("\"{value}\"")], "quotation marks"),
        (vec![&*value.replace(';', "\\;")], "backslashes"),
        (vec![&*format!("{value}; t=s:y")], "t=y"),
        (vec![&*format!("k=rsa; {}", value.replace("k=rsa; ", ""))], "not the first"),
        (vec![&*value.replace("DKIM1", "dkim1")], "not DKIM1"),
        (vec![&*format!("{value}; p=AAAA")], "there is more than one p="),
        (vec![&*value.replace("k=rsa", "k=RSA")], "another key"),
        (vec![&*value.replace("p=", "P=")], "no key"),
        (vec![&*value.replace("; k=rsa", " k=rsa")], "not DKIM1"),
    ] {
        let finding = judged(Purpose::Dkim, &found);
        let fix = finding.fix.unwrap();
        assert!(finding.status != RecordStatus::Ok && fix.contains(text), "{found:?}: {fix}");
    }
}

#[test]
fn spf_evaluation_has_a_fix() {
    let evaluated = |result: SpfResult, unrelated: SpfResult, repair: Option<&str>| {
        let evidence = SpfEvidence::Evaluated {
            address: "192.0.2.1".parse().unwrap(),
            result,
            reason: "nothing matches".into(),
            unrelated: (unrelated, "`+all` matches".into()),
            repair: repair.map(Into::into),
        };
        judged_by(Purpose::Spf, &["other=1", "v=spf1 mx"], &Evidence::Spf(evidence))
    };
    let good = evaluated(SpfResult::Pass, SpfResult::Neutral, None);
    assert_eq!((good.status, good.fix, good.warning), (RecordStatus::Ok, None, None));
    let open = evaluated(SpfResult::Pass, SpfResult::Pass, None);
    assert!(open.status == RecordStatus::Ok && open.warning.as_ref().unwrap().contains("every address"), "{open:?}");
    let wrong = evaluated(SpfResult::SoftFail, SpfResult::SoftFail, Some("v=spf1 a mx"));
    let fix = wrong.fix.unwrap();
    assert!(
        wrong.status == RecordStatus::Wrong && fix.ends_with("softfail: nothing matches. Replace it with: v=spf1 a mx"),
        "{fix}"
    );
    assert_eq!(evaluated(SpfResult::TempError, SpfResult::TempError, None).status, RecordStatus::Unanswered);
    let nowhere = Evidence::Spf(SpfEvidence::NoAddress("x has none".into()));
    let nowhere = judged_by(Purpose::Spf, &["v=spf1 mx"], &nowhere);
    assert!(nowhere.status == RecordStatus::Wrong && nowhere.fix.unwrap().contains("domains.spf"));
    let bare = records(&DnsSettings { spf: "a:box".into(), ..settings(None) }, "acme.test", &[]).remove(0);
    let missing = judge(bare, "acme.test", Ok(Vec::new()), &Evidence::None);
    assert!(missing.status == RecordStatus::Missing && missing.fix.unwrap().contains("`a:box` has no domain name"));
    let two = judged(Purpose::Spf, &["v=spf1 a:mail.acme.test -all", "v=spf1 -all"]);
    assert_eq!((two.status, two.found.len()), (RecordStatus::Wrong, 2));
    assert_eq!(judged(Purpose::Spf, &["v=spf10 a:mail.acme.test"]).status, RecordStatus::Missing);
    for near in ["\"v=spf1 mx\"", " v=spf1 mx", "v=spf1; mx"] {
        let finding = judged(Purpose::Spf, &[near]);
        assert!(finding.status == RecordStatus::Wrong && finding.fix.unwrap().contains("with exactly"), "{near}");
    }
}

#[test]
fn dmarc_is_inherited_with_the_subdomain_policy() {
    let keys: [PublishedKey; 0] = [];
    let policy = |at: &str, found: &[&str]| {
        let record = records(&settings(None), "news.acme.test", &keys).remove(1);
        assert_eq!(record.names(), ["_dmarc.news.acme.test", "_dmarc.acme.test"]);
        let finding = judge(record, at, Ok(found.iter().map(ToString::to_string).collect()), &Evidence::None);
        (finding.status, Verdict::new(&settings(None), "news.acme.test", &keys, vec![finding]).dmarc)
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
fn dmarc_is_parsed_as_receivers_do() {
    let policy = |found: &str| {
        let finding = judged(Purpose::Dmarc, &[found]);
        let verdict = Verdict::new(&settings(None), "acme.test", &[], vec![finding.clone()]);
        (finding.status, verdict.dmarc.flatten(), finding.fix.unwrap_or_default())
    };
    for good in ["v=DMARC1; p=none", "v = DMARC1 ;p=NONE;", "v=DMARC1; rua=mailto:a@b.test; p=none; fo=1; x=y"] {
        assert_eq!(policy(good), (RecordStatus::Ok, Some(DmarcPolicy::None), String::new()), "{good}");
    }
    for (bad, applies, why) in [
        ("v=dmarc1; p=reject", None, "with exactly"),
        ("\"v=DMARC1; p=reject\"", None, "with exactly"),
        ("v=DMARC1 p=reject", None, "with exactly"),
        ("v=DMARC1; p=reject rua=mailto:a@b.test", None, "semicolon is missing"),
        ("v=DMARC1; p=no; rua=mailto:a@b.test", Some(DmarcPolicy::None), "p=no"),
        ("v=DMARC1; rua=mailto:a@b.test", Some(DmarcPolicy::None), "no p="),
        ("v=DMARC1", None, "no p="),
        ("v=DMARC1; p=reject; p=none", Some(DmarcPolicy::Reject), "more than one p="),
        ("v=DMARC1; p=reject; adkim=strict", Some(DmarcPolicy::Reject), "adkim=strict"),
    ] {
        let (status, applying, fix) = policy(bad);
        assert!(status == RecordStatus::Wrong && applying == applies && fix.contains(why), "{bad}: {applying:?} {fix}");
    }
}

#[test]
fn strict_alignment_has_a_warning() {
    let finding = judged(Purpose::Dmarc, &["v=DMARC1; p=reject; adkim=s; aspf=s"]);
    assert_eq!((finding.status, &finding.fix), (RecordStatus::Ok, &None));
    assert!(finding.warning.as_ref().unwrap().contains("adkim=s"), "{finding:?}");
    let verdict = Verdict::new(&settings(None), "acme.test", &[], vec![finding]);
    assert_eq!(verdict.strict, Strict { dkim: true, spf: true });
}

#[test]
fn only_names_that_receivers_query_are_queried() {
    let names = |domain: &str| records(&settings(None), domain, &[]).remove(1).names();
    assert_eq!(names("a.b.acme.test"), ["_dmarc.a.b.acme.test", "_dmarc.acme.test"]);
    assert_eq!(names("a.b.acme.co.uk"), ["_dmarc.a.b.acme.co.uk", "_dmarc.acme.co.uk"]);
    assert_eq!(names("acme.co.uk"), ["_dmarc.acme.co.uk"]);
}

#[test]
fn direct_sender_has_a_helo_record() {
    let direct = DnsSettings { is_direct: true, ..settings(None) };
    let all = records(&direct, "acme.test", &[]);
    let helo = all.last().unwrap();
    let record = (helo.purpose, &*helo.name, &*helo.value);
    assert_eq!(record, (Purpose::HeloSpf, "mail.acme.test", "v=spf1 a -all"));
    for hostname in ["[192.0.2.1]", "box", "acme.test"] {
        let settings = DnsSettings { hostname: hostname.into(), ..direct.clone() };
        assert!(
            records(&settings, "acme.test", &[]).iter().all(|record| record.purpose != Purpose::HeloSpf),
            "{hostname}"
        );
    }
}

#[test]
fn return_path_mx_must_be_this_server_only() {
    let judged_mx = |found: &[&str], targets: &[MxTarget]| {
        let finding = judged_by(Purpose::ReturnPath, found, &Evidence::Exchangers(targets.to_vec()));
        (finding.status, finding.fix.unwrap_or_default())
    };
    let ok = (RecordStatus::Ok, String::new());
    assert_eq!(judged_mx(&["5 Mail.acme.test."], &[MxTarget::ThisServer]), ok);
    assert_eq!(judged_mx(&["5 another.test."], &[MxTarget::ThisServer]), ok, "another name of this server");
    assert_eq!(judged_mx(&[], &[]).0, RecordStatus::Missing);
    let (status, fix) =
        judged_mx(&["10 mail.acme.test.", "20 other.test."], &[MxTarget::ThisServer, MxTarget::OtherServer]);
    assert!(status == RecordStatus::Wrong && fix.contains("make mail.acme.test the only"), "{fix}");
    let (status, fix) = judged_mx(&["10 mail.acme.test."], &[MxTarget::NoAddress]);
    assert!(status == RecordStatus::Wrong && fix.contains("has no address"), "{fix}");
    assert_eq!(judged_mx(&["10 other.test."], &[MxTarget::Unanswered]).0, RecordStatus::Unanswered);
}

#[test]
fn domain_is_verified_by_all_signing_keys() {
    use RecordStatus::{Missing, Ok, Unanswered, Wrong};

    let keys = [
        key("ed", Algorithm::Ed25519, KeyState::Active),
        key("rsa", Algorithm::Rsa, KeyState::Active),
        key("next", Algorithm::Rsa, KeyState::Pending),
        key("old", Algorithm::Rsa, KeyState::Retiring),
    ];
    let verdict = |settings: &DnsSettings, status: [RecordStatus; 4]| {
        let all = records(settings, "acme.test", &keys).into_iter().take(4);
        let findings = all.zip(status).map(|(record, status)| record.found(status, Vec::new(), None)).collect();
        let verdict = Verdict::new(settings, "acme.test", &keys, findings);
        (verdict.is_verified, verdict.published.len())
    };
    let both = settings(None);
    assert_eq!(verdict(&both, [Ok, Ok, Missing, Missing]), (Some(true), 0));
    assert_eq!(verdict(&both, [Ok, Wrong, Ok, Ok]), (Some(false), 1));
    assert_eq!(verdict(&both, [Ok, Unanswered, Unanswered, Ok]), (None, 0));
    assert_eq!(verdict(&both, [Missing, Unanswered, Ok, Ok]), (Some(false), 1));
    let rsa = DnsSettings { algorithms: vec![Algorithm::Rsa], ..settings(None) };
    assert_eq!(verdict(&rsa, [Missing, Ok, Missing, Ok]), (Some(true), 0));
    let none = DnsSettings { algorithms: Vec::new(), ..settings(None) };
    assert_eq!(
        verdict(&none, [Ok, Ok, Missing, Ok]),
        (Some(true), 0),
        "no configured algorithm: all active keys count"
    );
    assert_eq!(verdict(&none, [Missing, Ok, Missing, Ok]), (Some(false), 0));
}

#[test]
fn pending_key_that_will_sign_is_checked_soon() {
    let keys = [key("rsa", Algorithm::Rsa, KeyState::Active), key("next", Algorithm::Ed25519, KeyState::Pending)];
    let next = |settings: &DnsSettings, status: RecordStatus| {
        let all = records(settings, "acme.test", &keys).into_iter().take(2);
        let findings =
            all.zip([RecordStatus::Ok, status]).map(|(record, status)| record.found(status, Vec::new(), None));
        Verdict::new(settings, "acme.test", &keys, findings.collect()).next_check(settings, &keys)
    };
    let (both, rsa) = (settings(None), DnsSettings { algorithms: vec![Algorithm::Rsa], ..settings(None) });
    assert_eq!(
        (next(&both, RecordStatus::Missing), next(&both, RecordStatus::Ok)),
        (PENDING_CHECK_INTERVAL, CHECK_INTERVAL)
    );
    assert_eq!(next(&rsa, RecordStatus::Missing), CHECK_INTERVAL);
}

#[test]
fn alignment_is_relaxed_unless_the_record_is_strict() {
    let relaxed = |domain: &str, return_path: &str| is_aligned(domain, return_path, Strict::default());
    for (domain, return_path) in [
        ("acme.test", "acme.test"),
        ("acme.test", "b.acme.test"),
        ("news.acme.co.uk", "acme.co.uk"),
        ("co.uk", "co.uk"),
    ] {
        assert!(relaxed(domain, return_path), "{domain} {return_path}");
    }
    assert!(!relaxed("acme.test", "bounces.test") && !relaxed("acme.test", "notacme.test"));
    assert!(!relaxed("acme.co.uk", "other.co.uk") && !relaxed("acme.co.uk", "co.uk"), "other organisations");
    assert!(relaxed("news.acme.test", "bounces.acme.test") && relaxed("a.b.acme.test", "c.b.acme.test"));
    assert!(!relaxed("news.acme.test", "acme.bounces.test") && !relaxed("localhost", "a.localhost.test"));
    let strict = Strict { dkim: false, spf: true };
    assert!(is_aligned("acme.test", "acme.test", strict) && !is_aligned("acme.test", "b.acme.test", strict));
    assert_eq!(with_parents("a.b.acme.test"), ["a.b.acme.test", "b.acme.test", "acme.test"]);
    assert_eq!(with_parents("localhost"), ["localhost"]);
}

proptest! {
    /// A finding has a fix exactly if its status is not `ok`, for any DNS content.
    #[test]
    fn any_content_gets_a_finding(found in proptest::collection::vec("\\PC{0,40}|v=spf1.{0,20}|v=DMARC1;.{0,20}", 0..3)) {
        for purpose in [Purpose::Dkim, Purpose::Spf, Purpose::Dmarc, Purpose::ReturnPath, Purpose::ReturnPathSpf] {
            let found: Vec<&str> = found.iter().map(String::as_str).collect();
            let finding = judged(purpose, &found);
            prop_assert_eq!(finding.status == RecordStatus::Ok, finding.fix.is_none());
        }
    }
}
