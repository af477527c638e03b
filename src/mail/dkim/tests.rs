//! Checks Postrider's signatures with an independent verifier (mail-auth's), checks that verifier with the examples of
//! the RFCs, and checks that changed messages do not verify.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;
use mail_auth::{
    AuthenticatedMessage, DkimResult, MX, MessageAuthenticator, Parameters, RecordSet, ResolverCache, Txt,
};
use proptest::prelude::*;

use super::*;
use crate::domain::id::TenantId;
use crate::domain::installation::keyring::Keyring;
use crate::domain::sender_domain::dkim::{Algorithm, NewKey, SigningKey, record};

/// TXT records, used as the DNS cache of the verifier, which then sends no queries.
#[derive(Default)]
struct Zone(Mutex<HashMap<Box<str>, Txt>>);

impl ResolverCache<Box<str>, Txt> for Zone {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.lock().unwrap().get(name).cloned()
    }

    fn remove<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.0.lock().unwrap().remove(name)
    }

    fn insert(&self, name: Box<str>, value: Txt, _: std::time::Instant) {
        self.0.lock().unwrap().insert(name, value);
    }
}

impl Zone {
    fn with(self, name: &str, record: &str) -> Self {
        let key = DomainKey::parse(record.as_bytes()).expect(record);
        self.0.lock().unwrap().insert(format!("{name}.").into(), key.into());
        self
    }
}

/// Returns the verification result of each signature.
async fn verified(mail: &[u8], zone: &Zone) -> Vec<Result<(), String>> {
    let dns = MessageAuthenticator(crate::dns::resolver(Some("127.0.0.1:9".parse().unwrap())).unwrap());
    let message = AuthenticatedMessage::parse(mail).expect("a message");
    let parameters = Parameters {
        params: &message,
        cache_txt: Some(zone),
        cache_mx: None::<&NoMx>,
        cache_ptr: None::<&NoPtr>,
        cache_ipv4: None::<&NoV4>,
        cache_ipv6: None::<&NoV6>,
    };
    let outcome = |output: &mail_auth::DkimOutput<'_>| match output.result() {
        DkimResult::Pass => Ok(()),
        other => Err(format!("{other:?}")),
    };
    dns.verify_dkim(parameters).await.iter().map(outcome).collect()
}

type NoMx = mail_auth::common::cache::NoCache<Box<str>, RecordSet<MX>>;
type NoPtr = mail_auth::common::cache::NoCache<std::net::IpAddr, RecordSet<Box<str>>>;
type NoV4 = mail_auth::common::cache::NoCache<Box<str>, RecordSet<std::net::Ipv4Addr>>;
type NoV6 = mail_auth::common::cache::NoCache<Box<str>, RecordSet<std::net::Ipv6Addr>>;

/// Returns a signer with new keys, and the DNS records for them.
fn signer(domain: &str, algorithms: &[Algorithm]) -> (Signer, Zone) {
    let ring = Keyring::new("secret", []);
    let (mut keys, mut zone) = (Vec::new(), Zone::default());
    for algorithm in algorithms {
        let (made, selector) = (NewKey::generate(*algorithm).unwrap(), algorithm.as_str());
        let sealed = made.seal(&ring, TenantId::DEFAULT, domain, selector).unwrap();
        let key = SigningKey::open(Some(&ring), TenantId::DEFAULT, domain, selector, *algorithm, &sealed).unwrap();
        zone = zone.with(&format!("{selector}._domainkey.{domain}"), &record(*algorithm, &made.public));
        keys.push(key.into());
    }
    (Signer { domain: domain.into(), keys }, zone)
}

fn signed(mail: &str, signer: &Signer, at: DateTime<Utc>) -> Vec<u8> {
    let mut mail = mail.as_bytes().to_vec();
    sign(&mut mail, signer, at).unwrap();
    mail
}

fn at() -> DateTime<Utc> {
    "2026-11-23T12:00:00Z".parse().unwrap()
}

const MAIL: &str = "Date: Mon, 23 Nov 2026 12:00:00 +0000\r\nFrom: Acme <billing@acme.test>\r\nTo: ann@example.test,\r\n bo@example.test\r\n\
                    Subject: Your  invoice\r\nMessage-ID: <1@acme.test>\r\nMIME-Version: 1.0\r\nX-Other: 1\r\n\
                    List-Unsubscribe: <https://acme.test/u>\r\nContent-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: 7bit\r\n\r\nHello  there. \r\n\r\n.\r\n\r\n\r\n";

#[tokio::test]
async fn both_keys_verify_and_signatures_are_reproducible() {
    let (signer, zone) = signer("acme.test", &Algorithm::ALL);
    let mail = signed(MAIL, &signer, at());
    assert_eq!(verified(&mail, &zone).await, [Ok(()), Ok(())]);
    assert_eq!(signed(MAIL, &signer, at()), mail);
    let text = String::from_utf8(mail).unwrap();
    assert!(text.ends_with(MAIL) && text.lines().all(|line| line.len() <= 998), "{text}");
    assert!(text.contains("a=ed25519-sha256; s=ed25519; d=acme.test;\r\n\tc=relaxed/relaxed;"), "{text}");
    assert!(text.contains("t=1795435200"), "the message's date: {text}");
    let plain: String = text.split_whitespace().collect();
    let h = "h=Content-Transfer-Encoding:Content-Type:List-Unsubscribe:MIME-Version:Message-ID:Subject:To:From:Date:\
             From:Subject:To:Reply-To:Date;";
    assert_eq!(plain.matches(h).count(), 2, "five fields are oversigned, X-Other is not signed: {plain}");
}

#[tokio::test]
async fn long_names_are_folded_and_verify() {
    let domain = format!("{}.{}.acme.test", "l".repeat(60), "d".repeat(50));
    for domain in ["acme.example.test", &domain] {
        let (signer, zone) = signer(domain, &[Algorithm::Ed25519]);
        let mail = signed(MAIL, &signer, at());
        assert_eq!(verified(&mail, &zone).await, [Ok(())]);
        let text = String::from_utf8(mail).unwrap();
        let longest = text.lines().map(str::len).max().unwrap();
        assert!(longest <= 78.max(domain.len() + "\td=;".len()), "{text}");
    }
}

#[test]
fn fields_that_receivers_act_on_are_signed() {
    let (signer, _) = signer("acme.test", &[Algorithm::Ed25519]);
    for name in ["List-ID", "References", "In-Reply-To", "Feedback-ID", "List-Post", "Reply-To", "Cc", "Auto-Submitted"]
    {
        let mail = String::from_utf8(signed(&format!("{name}: x\r\n{MAIL}"), &signer, at())).unwrap();
        let plain: String = mail.split_whitespace().collect();
        assert!(plain.contains(&format!(":{name}:From:Subject:To:Reply-To:Date;")), "{plain}");
    }
}

#[test]
fn message_is_signed_in_place() {
    let (signer, _) = signer("acme.test", &Algorithm::ALL);
    let draft = crate::domain::message::Draft {
        id: crate::domain::id::MessageId(uuid::Uuid::nil()),
        date: at(),
        from: crate::domain::address::Mailbox { address: "a@acme.test".parse().unwrap(), name: None },
        to: Vec::new(),
        cc: Vec::new(),
        reply_to: Vec::new(),
        subject: String::new(),
        content: crate::domain::message::Content { text: Some("Hello.\r\n".repeat(1_000)), ..Default::default() },
        attachments: Vec::new(),
    };
    let mut mail = crate::mail::build(&draft);
    let address = mail.as_ptr();
    sign(&mut mail, &signer, at()).unwrap();
    assert!(mail.starts_with(b"DKIM-Signature: ") && mail.as_ptr() == address, "the buffer was reallocated");
}

#[tokio::test]
async fn changed_message_does_not_verify() {
    let (signer, zone) = signer("acme.test", &Algorithm::ALL);
    let original = String::from_utf8(signed(MAIL, &signer, at())).unwrap();
    for (from, to) in [
        ("Subject: Your", "Subject: My"),
        ("Hello", "Hullo"),
        ("To: ann", "To: eve"),
        ("<https://acme.test/u>", "<https://evil.test/u>"),
        ("Date:", "From: Eve <eve@evil.test>\r\nDate:"),
        ("MIME-Version:", "From: Eve <eve@evil.test>\r\nMIME-Version:"),
        ("MIME-Version:", "Subject: Another\r\nMIME-Version:"),
        ("MIME-Version:", "To: eve@evil.test\r\nMIME-Version:"),
        ("MIME-Version:", "Reply-To: eve@evil.test\r\nMIME-Version:"),
        ("MIME-Version:", "Date: Mon, 23 Nov 2020 12:00:00 +0000\r\nMIME-Version:"),
        ("d=acme.test", "d=acne.test"),
    ] {
        let forged = original.replace(from, to);
        assert_ne!(forged, original, "{from}");
        let outcomes = verified(forged.as_bytes(), &zone.with_alias("acne.test")).await;
        // Some verifiers reject a message with two From fields outright.
        assert!(outcomes.iter().all(Result::is_err), "{from} → {to}: {outcomes:?}");
    }
    for (from, to) in [("X-Other: 1\r\n", ""), ("Hello  there. ", "Hello there."), ("Subject: Your", "SUBJECT:   Your")]
    {
        assert_eq!(verified(original.replace(from, to).as_bytes(), &zone).await, [Ok(()), Ok(())], "relaxed: {from}");
    }
}

impl Zone {
    /// Publishes the same keys for another domain as well.
    fn with_alias(&self, domain: &str) -> Self {
        let records = self.0.lock().unwrap();
        let renamed = records.iter().map(|(name, key)| (name.replace("acme.test", domain).into(), key.clone()));
        Self(Mutex::new(renamed.chain(records.clone()).collect()))
    }
}

/// RFC 8463 appendix A: the keys, and the message as signed there with both.
const FOOTBALL: &str = "From: Joe SixPack <joe@football.example.com>\r\nTo: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\nDate: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n\
    Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n";
const FOOTBALL_SIGNATURES: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n\
    \x20d=football.example.com; i=@football.example.com;\r\n\
    \x20q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n subject : date : message-id : from : subject : date;\r\n\
    \x20bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n\
    \x20b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n\
    DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n d=football.example.com; i=@football.example.com;\r\n\
    \x20q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n date : message-id : from : subject : date;\r\n\
    \x20bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n\
    \x20b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n\
    \x20DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n\
    \x20dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n";
const BRISBANE: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const TEST: &str = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWRiGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutACDfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3Ip3G+2kryOTIKT+l/K4w3QIDAQAB";
/// The private key of `brisbane`: the seed of RFC 8463 §A.2 in PKCS #8 (RFC 8410 §7).
const BRISBANE_SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";

fn football() -> Zone {
    let zone = Zone::default().with("brisbane._domainkey.football.example.com", BRISBANE);
    zone.with("test._domainkey.football.example.com", TEST)
}

#[tokio::test]
async fn rfc_8463_example_verifies_also_when_signed_here() {
    let zone = football();
    let example = format!("{FOOTBALL_SIGNATURES}{FOOTBALL}");
    assert_eq!(verified(example.as_bytes(), &zone).await, [Ok(()), Ok(())]);
    let forged = example.replace("lost", "won");
    assert!(verified(forged.as_bytes(), &zone).await.iter().all(Result::is_err));

    let seed = STANDARD.decode(BRISBANE_SEED).unwrap();
    let private = [&b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20"[..], &seed].concat();
    let key = SigningKey::parse("brisbane", Algorithm::Ed25519, private).unwrap();
    let signer = Signer { domain: "football.example.com".into(), keys: vec![key.into()] };
    let at = DateTime::from_timestamp(1_528_637_909, 0).unwrap();
    let mail = signed(FOOTBALL, &signer, at);
    assert_eq!(verified(&mail, &zone).await, [Ok(())]);
    let text: String = String::from_utf8(mail).unwrap().split_whitespace().collect();
    assert!(text.contains("bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;"), "the body hash of the RFC: {text}");
}

/// RFC 6376 appendix A.2, with the key published in appendix C.
const BRISBANE_RSA: &str = "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB";
const RFC_6376: &str = "DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;\r\n\
    \x20     c=simple/simple; q=dns/txt; i=joe@football.example.com;\r\n\
    \x20     h=Received : From : To : Subject : Date : Message-ID;\r\n\
    \x20     bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n\
    \x20     b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB\r\n\
    \x20     4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut\r\n\
    \x20     KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV\r\n\
    \x20     4bmp/YzhwvcubU4=;\r\n\
    Received: from client1.football.example.com  [192.0.2.1]\r\n\
    \x20     by submitserver.example.com with SUBMISSION;\r\n\
    \x20     Fri, 11 Jul 2003 21:01:54 -0700 (PDT)\r\n";

#[tokio::test]
async fn rfc_6376_example_verifies() {
    let zone = Zone::default().with("brisbane._domainkey.example.com", BRISBANE_RSA);
    // The body of this example has one space between the sentences; the canonical form `simple` preserves spaces.
    let example = format!("{RFC_6376}{}", FOOTBALL.replace("game.  Are", "game. Are"));
    assert_eq!(verified(example.as_bytes(), &zone).await, [Ok(())]);
    assert!(verified(example.replace("lost", "won").as_bytes(), &zone).await.iter().all(Result::is_err));
}

/// Generates bodies with all kinds of line ends and spaces.
fn body() -> impl Strategy<Value = String> {
    proptest::collection::vec("[a-z .=\t]{0,12}", 0..8).prop_map(|lines| lines.join("\r\n") + "\r\n")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn signature_of_any_message_verifies(subject in "[ -~]{0,60}", fold in any::<bool>(), body in body()) {
        let (signer, zone) = signer("acme.test", &[Algorithm::Ed25519]);
        let fold = if fold { "\r\n\t" } else { "" };
        let mail = format!("From: a@acme.test\r\nSubject:{fold} x{subject}\r\nTo: b@x.test\r\n\r\n{body}");
        let mail = signed(&mail, &signer, at());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        prop_assert_eq!(runtime.block_on(verified(&mail, &zone)), vec![Ok(())]);
    }
}
