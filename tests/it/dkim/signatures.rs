//! Messages are signed when they arrive at the other mail server, and receivers can verify the signatures.

use postrider::config::Config;
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::hours;
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, keys, publish, registered, signatures, with_secret};

async fn sent(app: &TestApp, fields: serde_json::Value) -> Vec<u8> {
    app.send(fields).await;
    app.run_until_idle().await;
    app.smtp.messages().pop().expect("a message").raw
}

#[tokio::test]
async fn both_keys_sign_and_verify_once_published() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let domain = registered(&app, "acme.test").await;
    let [ed25519, rsa] = keys(&domain).try_into().unwrap();
    let expected = |verifies: bool| {
        [(&ed25519, verifies), (&rsa, verifies)]
            .map(|(key, verifies)| ("acme.test".to_owned(), key.0.clone(), verifies))
    };
    let message =
        sent(&app, json!({"html": "<p>Grüße</p>", "headers": {"List-Unsubscribe": "<https://acme.test/u>"}})).await;
    assert_eq!(signatures(&dns, &message).await, expected(false), "the records are not published yet");
    publish(&dns, &domain);
    assert_eq!(checked(&app, "acme.test").await["status"], "verified");
    assert_eq!(signatures(&dns, &message).await, expected(true));
    let large = "QUJD".repeat(200_000);
    let message =
        sent(&app, json!({"attachments": [{"filename": "a.bin", "content": large}], "text": ".\n..\r\n  \n\n"})).await;
    assert_eq!(signatures(&dns, &message).await, expected(true));
    let text = String::from_utf8(message).unwrap().replace("Subject: Your", "Subject: My");
    assert_eq!(signatures(&dns, text.as_bytes()).await, expected(false));
}

#[tokio::test]
async fn every_attempt_and_raw_have_the_same_signatures() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    registered(&app, "acme.test").await;
    app.smtp.dot().replies(["451 4.3.0 later", "250 ok"]);
    let message = app.send(json!({"scheduled_at": app.clock.text_in(hours(30)), "to": "ann@example.test"})).await;
    let before = app.get(&format!("/v1/messages/{}/raw", message.id)).await;
    assert_eq!(before.headers.get("postrider-signatures"), None);
    app.clock.advance(hours(30));
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "deferred");
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    let raw = app.get(&format!("/v1/messages/{}/raw", message.id)).await;
    assert_eq!(raw.headers["postrider-signatures"], "current");
    let (raw, before) = (raw.bytes, before.bytes);
    let [received] = app.smtp.messages().try_into().expect("one message");
    assert!(String::from_utf8_lossy(&raw).starts_with("DKIM-Signature: "));
    assert!(received.raw == raw && raw == before, "every attempt sends the same bytes");
}

#[tokio::test]
async fn all_messages_of_a_burst_after_an_idle_time_are_signed() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let first = sent(&app, json!({})).await;
    assert!(!String::from_utf8_lossy(&first).contains("DKIM-Signature"), "the domain is not registered");
    registered(&app, "acme.test").await;
    app.clock.advance(hours(72));
    for _ in 0..40 {
        app.send(json!({})).await;
    }
    app.run_until_idle().await;
    let signed = app.smtp.messages().into_iter().filter(|message| message.raw.starts_with(b"DKIM-Signature: ")).count();
    assert_eq!(signed, 40);
}

#[tokio::test]
async fn nearest_registered_parent_signs_for_a_subdomain() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    for name in ["acme.test", "news.acme.test"] {
        publish(&dns, &registered(&app, name).await);
    }
    for (from, signer) in [
        ("a@shop.acme.test", Some("acme.test")),
        ("a@weekly.news.acme.test", Some("news.acme.test")),
        ("a@news.acme.test", Some("news.acme.test")),
        ("a@notacme.test", None),
        ("a@acme.test.evil.test", None),
    ] {
        let message = sent(&app, json!({"from": from})).await;
        let found: Vec<_> = signatures(&dns, &message).await.into_iter().map(|(domain, _, ok)| (domain, ok)).collect();
        let expected = signer.map(|name| vec![(name.to_owned(), true); 2]).unwrap_or_default();
        assert_eq!(found, expected, "{from}");
    }
}

#[tokio::test]
async fn configuration_selects_the_algorithms() {
    for (algorithms, expected) in [(&["rsa"][..], &["rsa"][..]), (&["ed25519"], &["ed25519"]), (&["none"], &[])] {
        let dns = DnsServer::start().await;
        let choose =
            |config: &mut Config| config.dkim.algorithms = algorithms.iter().map(ToString::to_string).collect();
        let app = with_secret(&dns).config(choose).start().await;
        publish(&dns, &registered(&app, "acme.test").await);
        let found = signatures(&dns, &sent(&app, json!({})).await).await;
        let names: Vec<&str> = found.iter().map(|(_, selector, _)| selector.rsplit('-').next().unwrap()).collect();
        assert!(found.iter().all(|(_, _, verifies)| *verifies), "{found:?}");
        assert_eq!(names, expected);
    }
}

#[tokio::test]
async fn dry_run_shows_the_signatures() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let domain = registered(&app, "acme.test").await;
    publish(&dns, &domain);
    let plan = app.post("/v1/messages?dry_run=true", &message(json!({"from": "a@news.acme.test"}))).await.body;
    let planned =
        |key: &(String, String, String)| json!({"domain": "acme.test", "selector": key.0, "algorithm": key.1});
    assert_eq!(plan["dkim"], json!(keys(&domain).iter().map(planned).collect::<Vec<_>>()));
    let mime = plan["mime"]["content"].as_str().unwrap();
    assert!(signatures(&dns, mime.as_bytes()).await.iter().all(|(_, _, verifies)| *verifies));
}

#[tokio::test]
async fn message_waits_until_its_keys_can_be_decrypted() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    publish(&dns, &registered(&app, "acme.test").await);
    let mut other = app.config.clone();
    other.secret_key = Some("another secret that is just as long".to_owned().into());
    let worker = app.worker_with(&other).await;
    let message = app.send(json!({})).await;
    worker.drain().await.unwrap();
    let waiting = app.recipient(&message.id).await;
    assert_eq!((&waiting["status"], &waiting["attempts"], app.smtp.messages().len()), (&json!("queued"), &json!(0), 0));
    assert_eq!(app.events(&message.id).await, ["accepted"]);
    let explained = app.get(&format!("/v1/messages/{}/explain", message.id)).await.body["recipients"][0].clone();
    assert_eq!(explained["blocker"]["kind"], "unprepared");
    assert!(
        explained["summary"].as_str().unwrap().contains("from domain acme.test cannot be signed: DKIM key"),
        "{explained}"
    );
    let lanes = app.get("/v1/lanes").await.body["data"].clone();
    assert_eq!(lanes[0]["unprepared"]["recipients"]["number"], 1, "{lanes}");
    assert!(lanes[0]["reason"].as_str().unwrap().contains("previous_secret_keys"), "{lanes}");
    assert_eq!(app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await.status, 200);
    worker.drain().await.unwrap();
    assert_eq!(app.status(&message.id).await, "queued");
    let elsewhere = app.send(json!({"from": "a@other.test"})).await;
    worker.drain().await.unwrap();
    assert_eq!(app.status(&elsewhere.id).await, "relayed", "other messages do not wait");

    other.previous_secret_keys = vec![crate::support::domains::SECRET.to_owned().into()];
    let reset = explained["unblock"][1]["call"].as_str().unwrap().strip_prefix("POST ").unwrap().to_owned();
    assert_eq!(app.post(&reset, &json!({})).await.status, 200, "resetting the lane retries its messages at once");
    app.worker_with(&other).await.drain().await.unwrap();
    assert_eq!(app.status(&message.id).await, "relayed");
    let received = app.smtp.messages().pop().unwrap().raw;
    assert!(signatures(&dns, &received).await.iter().all(|(_, _, verifies)| *verifies));
}
