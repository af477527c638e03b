//! Signing in: AUTH PLAIN and LOGIN, TLS, and keys that may not.

use postrider::domain::key::Scope;
use serde_json::json;

use super::{ANN, FROM, MESSAGE, count, id, signed_in, start};
use crate::support::app::TestApp;
use crate::support::certificate::Certificate;
use crate::support::clock::hours;
use crate::support::inbound_client::Client;

const NAME: &str = "mail.acme.test";
const EHLO: &str = "EHLO app.test\r\n";

/// Encodes a text in base64.
fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test]
async fn plain_and_login_accept_an_api_key_as_password() {
    let app = start().await;
    let (user, key) = (base64("anybody"), base64(&app.key));
    let plain = base64(&format!("\0anybody\0{}", app.key));
    let dialogues: [&[(String, u16)]; 4] = [
        &[(format!("AUTH PLAIN {plain}"), 235), (format!("AUTH PLAIN {plain}"), 503)],
        &[("AUTH PLAIN".into(), 334), (plain.clone(), 235)],
        &[("AUTH LOGIN".into(), 334), (user.clone(), 334), (key.clone(), 235)],
        &[(format!("AUTH LOGIN {user}"), 334), (key.clone(), 235)],
    ];
    for dialogue in dialogues {
        let mut client = Client::connect(app.submission()).await;
        let extensions = client.say(EHLO).await;
        for extension in ["SIZE 41943040", "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "DSN", "AUTH PLAIN LOGIN"]
        {
            assert!(extensions.contains(extension), "{extension}: {extensions}");
        }
        for (line, code) in dialogue {
            assert_eq!(client.code(&format!("{line}\r\n")).await, *code, "{line}");
        }
        id(&client.submit(FROM, &[ANN], MESSAGE).await);
    }
    assert_eq!(count(&app).await, 4);
}

#[tokio::test]
async fn wrong_keys_are_refused_and_nothing_is_accepted() {
    let app = start().await;
    let mut client = Client::connect(app.submission()).await;
    assert_eq!(client.code("MAIL FROM:<billing@acme.test>\r\n").await, 503, "before EHLO");
    let reply = client.sign_in("pr_wrong").await;
    assert!(reply.starts_with("535 5.7.8 unauthorized: "), "{reply}");
    for line in ["AUTH PLAIN !", "AUTH PLAIN YW5u", "AUTH PLAIN ="] {
        assert_eq!(client.code(&format!("{line}\r\n")).await, 501, "{line}");
    }
    assert_eq!(client.code("AUTH CRAM-MD5\r\n").await, 504);
    let reply = client.say("MAIL FROM:<billing@acme.test>\r\n").await;
    assert!(reply.starts_with("530 5.7.0 "), "{reply}");
    assert_eq!(client.code("RCPT TO:<ann@example.test>\r\n").await, 503);
    assert_eq!(client.code("DATA\r\n").await, 503);
    assert!(client.sign_in(&app.key).await.starts_with("235"), "and the right key still works");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn keys_that_may_not_send_cannot_sign_in() {
    let app = start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let refused = async |key: &str, why: &str| {
        let reply = Client::connect(app.submission()).await.sign_in(key).await;
        assert!(reply.starts_with("535 5.7.8 ") && reply.contains(why), "{reply}");
    };
    refused(&reader.key, "forbidden: This key lacks the scope `send`").await;
    let elsewhere = app.post("/v1/keys", &json!({"name": "office", "allowed_ips": ["192.0.2.0/24"]})).await.body;
    refused(elsewhere["secret"].as_str().unwrap(), "forbidden: This key may not be used from 127.0.0.1").await;
    let here = app.post("/v1/keys", &json!({"name": "here", "allowed_ips": ["127.0.0.0/8"]})).await.body;
    signed_in(&app, &app.with_key(here["secret"].as_str().unwrap())).await;
    let expiring = json!({"name": "old", "expires_at": app.clock.text_in(hours(1))});
    let expiring = app.post("/v1/keys", &expiring).await.body;
    app.clock.advance(hours(2));
    refused(expiring["secret"].as_str().unwrap(), "unauthorized: This API key has expired.").await;
}

#[tokio::test]
async fn messages_arrive_over_starttls_and_implicit_tls() {
    let certificate = Certificate::valid_for(NAME);
    let (chain, key, _dir) = certificate.as_files();
    let app = TestApp::builder().with_submission(Some((&chain, &key))).start().await;

    let mut plain = Client::connect(app.submission()).await;
    assert!(plain.say(EHLO).await.contains("STARTTLS"));
    assert_eq!(plain.code("STARTTLS\r\n").await, 220);
    let mut started = plain.trusting(&certificate, NAME).await;
    let implicit = Client::connect_secured(app.submission_tls(), &certificate, NAME).await;
    assert!(!started.say(EHLO).await.contains("STARTTLS"));
    for mut client in [started, implicit] {
        assert!(client.sign_in(&app.key).await.starts_with("235"));
        let id = id(&client.submit(FROM, &[ANN], MESSAGE).await);
        let raw = app.get(&format!("/v1/messages/{id}/raw")).await.bytes;
        let raw = String::from_utf8(raw).unwrap();
        assert!(raw.starts_with("Received: by postrider.test (Postrider) with ESMTPSA;\r\n "), "{raw}");
    }
}

#[tokio::test]
async fn commands_before_the_handshake_are_discarded() {
    let certificate = Certificate::valid_for(NAME);
    let (chain, key, _dir) = certificate.as_files();
    let app = TestApp::builder().with_submission(Some((&chain, &key))).start().await;
    let mut plain = Client::connect(app.submission()).await;
    assert!(plain.sign_in(&app.key).await.starts_with("235"));
    let injected = format!("STARTTLS\r\nEHLO evil\r\nMAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n");
    assert_eq!(plain.code(&injected).await, 220);
    let mut client = plain.trusting(&certificate, NAME).await;
    assert_eq!(client.code("MAIL FROM:<billing@acme.test>\r\n").await, 503, "EHLO is needed again");
    assert_eq!(client.code(EHLO).await, 250);
    assert_eq!(client.code("MAIL FROM:<billing@acme.test>\r\n").await, 530, "and so is AUTH");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn revoked_key_ends_the_sign_in_of_open_sessions() {
    let app = start().await;
    let created = app.post("/v1/keys", &json!({"name": "shop"})).await.body;
    let api = app.with_key(created["secret"].as_str().unwrap());
    let (mut before, mut during) = (signed_in(&app, &api).await, signed_in(&app, &api).await);
    during.send(&format!("MAIL FROM:<{FROM}>\r\nRCPT TO:<{ANN}>\r\nDATA\r\n")).await;
    assert_eq!(during.codes(3).await, [250, 250, 354]);
    assert_eq!(app.delete(&format!("/v1/keys/{}", created["id"].as_str().unwrap())).await.status, 204);

    let reply = before.submit(FROM, &[ANN], MESSAGE).await;
    assert!(reply.starts_with("530 5.7.0 unauthorized: This API key has been revoked."), "{reply}");
    let reply = during.say(&format!("{MESSAGE}.\r\n")).await;
    assert!(reply.starts_with("550 5.7.1 unauthorized: This API key has been revoked."), "{reply}");
    assert!(before.sign_in(&app.key).await.starts_with("235"), "the client may sign in with another key");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn guessing_keys_is_limited_like_over_http() {
    let app = TestApp::builder()
        .with_submission(None)
        .config(|config| config.http.auth_failures_per_minute = 3)
        .start()
        .await;
    let mut client = Client::connect(app.submission()).await;
    for _ in 0..3 {
        assert!(client.sign_in("pr_wrong").await.starts_with("535"));
    }
    let reply = client.sign_in("pr_wrong").await;
    assert!(reply.starts_with("421 4.7.0 too_many_auth_failures: ") && reply.contains("Try again in 20 s."), "{reply}");
    assert_eq!(client.read_once().await, "", "the session ends");
    assert_eq!(app.with_key("pr_wrong").get("/v1/messages").await.status, 429, "the limit is the same");
    signed_in(&app, &app).await;
}
