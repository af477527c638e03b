//! Messages and recipients that are refused, with the reasons of the API.

use postrider::config::{Config, Unverified};
use serde_json::json;

use super::{ANN, FROM, MESSAGE, count, signed_in, start, submit};
use crate::support::app::TestApp;
use crate::support::inbound_client::Client;
use crate::tenants::{act, tenant};

#[tokio::test]
async fn invalid_recipients_are_refused_one_by_one() {
    let app = TestApp::builder()
        .with_submission(None)
        .config(|config: &mut Config| config.accept.max_recipients = 2)
        .start()
        .await;
    let mut client = signed_in(&app, &app).await;
    assert_eq!(client.code("MAIL FROM:<billing@acme.test>\r\n").await, 250);
    for (to, expected) in [
        ("postmaster", "550 5.1.3 invalid_request (invalid_address): "),
        ("nothing@simulator.postrider.test", "550 5.1.3 invalid_request (invalid_value): "),
        ("ann", "501 5.1.3 "),
        ("j\u{fc}rgen@example.test", "553 5.6.7 "),
        (ANN, "250 "),
        ("bo@example.test", "250 "),
        ("cy@example.test", "452 4.5.3 "),
    ] {
        let reply = client.say(&format!("RCPT TO:<{to}>\r\n")).await;
        assert!(reply.starts_with(expected), "{to}: {reply}");
    }
    assert_eq!(client.code("DATA\r\n").await, 354);
    let id = super::id(&client.say(&format!("{MESSAGE}.\r\n")).await);
    assert_eq!(app.message(&id).await["recipients"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn key_sends_only_from_its_domains() {
    let app = start().await;
    let blog = app.with_sender_domains(&["blog.test"]).await;
    let mut client = signed_in(&app, &blog).await;
    let from_blog = MESSAGE.replace("acme.test", "blog.test");
    for (from, mime) in [("a@blog.test", MESSAGE), (FROM, &from_blog)] {
        let reply = client.submit(from, &[ANN], mime).await;
        let expected = "550 5.7.1 forbidden: This key may send only from blog.test, not from acme.test.";
        assert!(reply.starts_with(expected), "{reply}");
    }
    for from in ["a@blog.test", ""] {
        super::id(&client.submit(from, &[ANN], &from_blog).await);
    }
    assert_eq!(count(&app).await, 2);
}

#[tokio::test]
async fn unverified_domain_is_refused_if_configured() {
    let app = TestApp::builder()
        .with_submission(None)
        .config(|config: &mut Config| config.domains.unverified = Unverified::Refuse)
        .start()
        .await;
    let mut client = signed_in(&app, &app).await;
    let reply = client.submit(FROM, &[ANN], MESSAGE).await;
    assert!(reply.starts_with("550 5.7.1 invalid_request (unverified_domain): "), "{reply}");
    assert!(reply.contains("acme.test is not registered"), "{reply}");
    assert_eq!(count(&app).await, 0);
}

#[tokio::test]
async fn invalid_messages_are_refused() {
    let app = start().await;
    let mut client = signed_in(&app, &app).await;
    for (mime, expected) in [
        (MESSAGE.replace("From: billing@acme.test\r\n", ""), "550 5.6.0 invalid_request (required): "),
        (format!("From: x@y.test\r\n{MESSAGE}"), "550 5.6.0 invalid_request (duplicate_field): "),
        (format!("{MESSAGE}{}\r\n", "x".repeat(999)), "550 5.6.0 invalid_request (too_long): "),
        (format!("{MESSAGE}\0\r\n"), "550 5.6.0 invalid_request (control_character): "),
        (format!("X-Postrider-Tag: a=b\r\nno field\r\n{MESSAGE}"), "550 5.6.0 invalid_request (invalid_header): "),
        (String::new(), "550 5.6.0 invalid_request (required): "),
    ] {
        let reply = client.submit(FROM, &[ANN], &mime).await;
        assert!(reply.starts_with(expected), "{reply}");
    }
    submit(&mut client, &[ANN], MESSAGE).await;
    assert_eq!(count(&app).await, 1);
}

#[tokio::test]
async fn suspended_tenant_cannot_sign_in_or_send() {
    let app = start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let mut client = signed_in(&app, &acme.api).await;
    submit(&mut client, &[ANN], MESSAGE).await;
    act(&app, &acme.id, "suspend").await;
    let reply = client.submit(FROM, &[ANN], MESSAGE).await;
    assert!(reply.starts_with("550 5.7.1 tenant_suspended: "), "{reply}");
    let reply = Client::connect(app.submission()).await.sign_in(&acme.api.key).await;
    assert!(reply.starts_with("535 5.7.8 tenant_suspended: "), "{reply}");
    assert_eq!(count(&acme.api).await, 1);
    act(&app, &acme.id, "resume").await;
    submit(&mut client, &[ANN], MESSAGE).await;
}
