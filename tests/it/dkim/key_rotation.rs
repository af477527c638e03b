//! Key rotation: new keys sign once their records are published, and the records of old keys stay for messages in
//! transit.

use postrider::clock::Clock as _;
use postrider::db::domains;
use postrider::domain::id::TenantId;
use postrider::domain::sender_domain::dkim::KeyState;
use postrider::domain::sender_domain::dns_records::{PublishedKey, Strict, Verdict};
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, keys, publish, records, registered, shown, signatures, with_secret};

/// Returns the selectors of the keys in a state, the Ed25519 key first.
fn in_state(domain: &Value, state: &str) -> Vec<String> {
    keys(domain).into_iter().filter(|key| key.2 == state).map(|key| key.0).collect()
}

/// Sends a message, checks that its signatures verify, and returns their selectors.
async fn signers(app: &TestApp, dns: &DnsServer) -> Vec<String> {
    app.send(json!({})).await;
    app.run_until_idle().await;
    let found = signatures(dns, &app.smtp.messages().pop().unwrap().raw).await;
    assert!(found.iter().all(|(_, _, verifies)| *verifies), "{found:?}");
    found.into_iter().map(|(_, selector, _)| selector).collect()
}

async fn rotated(app: &TestApp) -> Value {
    let response = app.post("/v1/domains/acme.test/rotate", &json!(null)).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

#[tokio::test]
async fn new_keys_sign_once_published_and_old_records_stay() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let domain = registered(&app, "acme.test").await;
    publish(&dns, &domain);
    let old = in_state(&checked(&app, "acme.test").await, "active");
    assert_eq!(signers(&app, &dns).await, old);

    let pending = rotated(&app).await;
    let new = in_state(&pending, "pending");
    assert!(new.len() == 2 && new.iter().all(|selector| !old.contains(selector)));
    assert_eq!((in_state(&pending, "active"), records(&pending, "dkim").len()), (old.clone(), 4));
    let again = app.post("/v1/domains/acme.test/rotate", &json!(null)).await;
    assert_eq!(again.problem(), (409, "rotation_pending"));
    let unpublished = checked(&app, "acme.test").await;
    assert_eq!((&unpublished["status"], in_state(&unpublished, "pending")), (&json!("verified"), new.clone()));
    assert_eq!(signers(&app, &dns).await, old, "no new record is published");

    // One of the two records is published first. A worker finds it.
    let record = |selector: &str| {
        let all = records(&pending, "dkim");
        let record = all.iter().find(|record| record["name"].as_str().unwrap().starts_with(selector)).unwrap();
        (record["name"].as_str().unwrap().to_owned(), record["value"].as_str().unwrap().to_owned())
    };
    let (name, value) = record(&new[1]);
    dns.txt(&name, [value.as_str()]);
    app.clock.advance(minutes(10));
    app.worker.check_domains().await.unwrap();
    assert_eq!(signers(&app, &dns).await, [old[0].clone(), new[1].clone()]);
    let (name, value) = record(&new[0]);
    dns.txt(&name, [value.as_str()]);
    let done = checked(&app, "acme.test").await;
    assert_eq!((in_state(&done, "active"), in_state(&done, "retiring")), (new.clone(), old.clone()));
    assert!(
        done["keys"].as_array().unwrap().iter().all(|key| (key["state"] == "retiring") == key["retire_at"].is_string())
    );
    assert_eq!(signers(&app, &dns).await, new);

    app.clock.advance(hours(6 * 24));
    app.worker.check_domains().await.unwrap();
    assert_eq!(in_state(&shown(&app, "acme.test").await, "retiring"), old);
    app.clock.advance(hours(25));
    app.worker.check_domains().await.unwrap();
    let settled = shown(&app, "acme.test").await;
    assert_eq!((keys(&settled).len(), records(&settled, "dkim").len()), (2, 2));
    assert_eq!(signers(&app, &dns).await, new);
    assert_eq!(in_state(&rotated(&app).await, "pending").len(), 2, "another rotation is possible");
}

#[tokio::test]
async fn key_that_never_signs_does_not_block_the_next_rotation() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).config(|config| config.dkim.algorithms = vec!["rsa".into()]).start().await;
    registered(&app, "acme.test").await;
    let first = rotated(&app).await;
    for record in
        records(&first, "dkim").into_iter().filter(|record| record["name"].as_str().unwrap().contains("-rsa."))
    {
        dns.txt(record["name"].as_str().unwrap(), [record["value"].as_str().unwrap()]);
    }
    let domain = checked(&app, "acme.test").await;
    assert_eq!((&domain["status"], in_state(&domain, "pending").len()), (&json!("verified"), 1));
    let second = rotated(&app).await;
    let (before, after) = (in_state(&first, "pending"), in_state(&second, "pending"));
    assert!(after.len() == 2 && after.iter().all(|selector| !before.contains(selector)));
}

#[tokio::test]
async fn check_from_before_a_rotation_does_not_delay_the_next() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    publish(&dns, &registered(&app, "acme.test").await);
    checked(&app, "acme.test").await;
    let before = shown(&app, "acme.test").await;
    let pending = rotated(&app).await;
    // The result of a replica that started its check before the rotation, and queried only the old keys.
    let verdict = Verdict {
        findings: Vec::new(),
        published: Vec::new(),
        is_verified: Some(true),
        dmarc: None,
        strict: Strict::default(),
    };
    let old: Vec<PublishedKey> = keys(&before)
        .into_iter()
        .map(|(selector, algorithm, _)| PublishedKey {
            selector,
            algorithm: algorithm.parse().unwrap(),
            state: KeyState::Active,
            public: Vec::new(),
        })
        .collect();
    let now = app.clock.now();
    domains::checked(&app.db, TenantId::DEFAULT, "acme.test", &verdict, &old, now, now + hours(6)).await.unwrap();
    publish(&dns, &pending);
    app.worker.check_domains().await.unwrap();
    assert_eq!(in_state(&shown(&app, "acme.test").await, "pending").len(), 0);
}

#[tokio::test]
async fn only_one_of_concurrent_rotations_succeeds() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    registered(&app, "acme.test").await;
    let rotate = async || app.post("/v1/domains/acme.test/rotate", &json!(null)).await.status;
    let (a, b, c) = tokio::join!(rotate(), rotate(), rotate());
    let mut statuses = [a, b, c];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409]);
    let register = async || app.post("/v1/domains", &json!({"name": "b.test"})).await.status;
    let (a, b) = tokio::join!(register(), register());
    assert_eq!((a.min(b), a.max(b)), (201, 409));
}
