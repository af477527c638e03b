//! The verdicts of SPF, DKIM, DMARC and ARC.

use std::time::{Duration, Instant};

use postrider::config::DmarcAction;
use serde_json::{Value, json};

use super::{deliver, received, route};
use crate::support::app::TestApp;
use crate::support::dns::DnsServer;

async fn start(dns: &DnsServer, dmarc: DmarcAction) -> TestApp {
    let app = TestApp::builder()
        .with_inbound()
        .config(|config| {
            (config.inbound.authenticate, config.inbound.dmarc) = (true, dmarc);
            config.dns = Some(dns.address());
        })
        .start()
        .await;
    route(&app, "*@reply.acme.test", "store").await;
    app
}

fn mime(from: &str) -> String {
    format!("From: {from}\r\nTo: x@reply.acme.test\r\nSubject: Hello\r\n\r\nHi\r\n")
}

/// Delivers a message, and returns its verdicts.
async fn verdicts(app: &TestApp, envelope_from: &str, mime: &str) -> Value {
    let replies = deliver(app, envelope_from, &["x@reply.acme.test"], mime).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
    received(app).await[0]["authentication"].clone()
}

#[tokio::test]
async fn verdicts_are_stored_with_the_message() {
    let dns = DnsServer::start().await;
    dns.txt("example.test", ["v=spf1 ip4:127.0.0.1 -all"]);
    dns.txt("_dmarc.example.test", ["v=DMARC1; p=reject"]);
    dns.txt("other.test", ["v=spf1 -all"]);
    dns.txt("_dmarc.victim.test", ["v=DMARC1; p=reject"]);
    let app = start(&dns, DmarcAction::Mark).await;

    let good = verdicts(&app, "ann@example.test", &mime("ann@example.test")).await;
    assert_eq!(good["spf"], json!({"result": "pass", "domain": "example.test"}));
    assert_eq!(good["dmarc"], json!({"result": "pass", "domain": "example.test", "policy": "reject"}));
    assert_eq!((&good["dkim"], &good["arc"]), (&json!([]), &json!({"result": "none"})));

    let forged = verdicts(&app, "ann@example.test", &mime("ceo@victim.test")).await;
    assert_eq!(forged["spf"]["result"], "pass", "the domain of the reverse path is another one");
    assert_eq!(forged["dmarc"], json!({"result": "fail", "domain": "victim.test", "policy": "reject"}));

    let unlisted = verdicts(&app, "ann@other.test", &mime("ann@other.test")).await;
    assert_eq!((&unlisted["spf"]["result"], &unlisted["dmarc"]["result"]), (&json!("fail"), &json!("none")));

    let bounce = verdicts(&app, "", &mime("mailer-daemon@unknown.test")).await;
    assert_eq!((&bounce["spf"]["result"], &bounce["dmarc"]["result"]), (&json!("none"), &json!("none")));
}

#[tokio::test]
async fn message_that_fails_dmarc_is_refused_if_configured() {
    let dns = DnsServer::start().await;
    for (domain, policy) in [("strict.test", "reject"), ("lax.test", "quarantine"), ("none.test", "none")] {
        let record = format!("v=DMARC1; p={policy}");
        dns.txt(&format!("_dmarc.{domain}"), [record.as_str()]);
    }
    let app = start(&dns, DmarcAction::Reject).await;
    for (domain, reply) in
        [("strict.test", "550 5.7.1"), ("lax.test", "250"), ("none.test", "250"), ("nothing.test", "250")]
    {
        let mime = mime(&format!("ann@{domain}"));
        let replies = deliver(&app, "bob@elsewhere.test", &["x@reply.acme.test"], &mime).await;
        assert!(replies[1].starts_with(reply), "{domain}: {replies:?}");
    }
    assert_eq!(received(&app).await.len(), 3);
}

#[tokio::test]
async fn signature_is_verified() {
    let dns = DnsServer::start().await;
    let app = start(&dns, DmarcAction::Mark).await;
    let domain = app.post("/v1/domains", &json!({"name": "acme.test"})).await;
    assert_eq!(domain.status, 201, "{}", domain.body);
    for record in domain.body["records"].as_array().unwrap() {
        let (name, value) = (record["name"].as_str().unwrap(), record["value"].as_str().unwrap_or_default());
        // A string of a TXT record has at most 255 bytes, so the RSA key would need two.
        if name.contains("_domainkey") && value.len() < 255 {
            dns.txt(name, [value]);
        }
    }
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=reject"]);
    app.send(json!({"from": "a@acme.test"})).await;
    app.run_until_idle().await;
    let signed = String::from_utf8(app.smtp.messages().pop().unwrap().raw).unwrap();
    assert!(signed.contains("DKIM-Signature"), "{signed}");
    let good = verdicts(&app, "", &signed).await;
    let results: Vec<&Value> = good["dkim"].as_array().unwrap().iter().map(|one| &one["result"]).collect();
    assert!(results.contains(&&json!("pass")), "{good}");
    assert_eq!(good["dmarc"]["result"], "pass", "{good}");
    let altered = verdicts(&app, "", &signed.replace("Subject:", "Subject: Fwd:")).await;
    assert_eq!(altered["dmarc"]["result"], "fail", "{altered}");
}

#[tokio::test]
async fn silent_dns_delays_a_message_for_a_limited_time() {
    let dns = DnsServer::start().await;
    dns.silent("example.test");
    dns.silent("_dmarc.example.test");
    let app = start(&dns, DmarcAction::Reject).await;
    let started = Instant::now();
    let verdicts = verdicts(&app, "ann@example.test", &mime("ann@example.test")).await;
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    assert_eq!(verdicts["spf"]["result"], "temperror", "{verdicts}");
    assert_eq!(verdicts["dmarc"]["result"], "temperror", "{verdicts}");
}

#[tokio::test]
async fn message_with_too_many_signatures_is_not_checked() {
    let dns = DnsServer::start().await;
    let app = start(&dns, DmarcAction::Mark).await;
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; d=example.test; s=x; h=from; bh=YQ==; b=YQ==\r\n";
    let many = verdicts(&app, "ann@example.test", &(signature.repeat(13) + &mime("ann@example.test"))).await;
    assert_eq!((&many["dkim"][0]["result"], &many["dmarc"]["result"]), (&json!("permerror"), &json!("permerror")));
}

#[tokio::test]
async fn too_many_signatures_do_not_evade_the_dmarc_policy() {
    let dns = DnsServer::start().await;
    dns.txt("_dmarc.strict.test", ["v=DMARC1; p=reject"]);
    let app = start(&dns, DmarcAction::Reject).await;
    let signature = "DKIM-Signature: v=1; a=rsa-sha256; d=strict.test; s=x; h=from; bh=YQ==; b=YQ==\r\n";
    let fields = "X-Filler: x\r\n".repeat(600);
    for forged in [signature.repeat(13) + &mime("ceo@strict.test"), fields + &mime("ceo@strict.test")] {
        let replies = deliver(&app, "ann@elsewhere.test", &["x@reply.acme.test"], &forged).await;
        assert!(replies[1].starts_with("550 5.7.1 "), "{replies:?}");
    }
    assert_eq!(received(&app).await.len(), 0);
}
