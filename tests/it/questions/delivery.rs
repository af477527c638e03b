//! What happened to a message, and to bounces?

use serde_json::{Value, json};

use super::{answer, answer_with};
use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::smtp::Action;

#[tokio::test]
async fn explanation_has_the_reason_and_the_reply() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 The disk is full"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let Some(output) = answer(3, &app, &sent.id).await else { return };
    assert!(output.contains("\"retry_wait\"") && output.contains("The disk is full"), "{output}");
}

#[tokio::test]
async fn explanation_names_faults_of_tls_and_dns() {
    let app = TestApp::start().await;
    for (question, script, words) in [(15, "tls-fail", "TLS"), (16, "dns-fail", "DNS")] {
        let sent = app.send(json!({"to": format!("{script}@simulator.postrider.test")})).await;
        app.run_until_idle().await;
        let Some(output) = explained(question, &app, &sent.id).await else { return };
        assert!(output.contains("\"retry_wait\"") && output.contains(words), "{script}: {output}");
    }
}

/// Returns the answer to one of the questions that have the same call.
async fn explained(question: usize, app: &TestApp, id: &str) -> Option<String> {
    if question == 15 { answer(15, app, id).await } else { answer(16, app, id).await }
}

#[tokio::test]
async fn events_say_that_a_message_may_have_arrived_twice() {
    let app = TestApp::start().await;
    app.smtp.dot().does([Action::Drop]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let Some(output) = answer(9, &app, &sent.id).await else { return };
    assert!(output.contains("\"message.uncertain\""), "{output}");
}

#[tokio::test]
async fn bounces_name_the_blocklist_and_the_address() {
    let app = TestApp::start().await;
    let reply = "550 5.7.1 Client host [192.0.2.7] blocked using zen.spamhaus.org";
    app.smtp.rcpt("ann@example.test").replies([reply]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let Some(output) = answer(13, &app, &sent.id).await else { return };
    assert!(output.contains("\"blocklist\"") && output.matches("192.0.2.7").count() >= 2, "{output}");
}

#[tokio::test]
async fn doctor_names_a_wrong_ptr_record() {
    let (app, dns) = (TestApp::start().await, DnsServer::start().await);
    dns.add_address("postrider.test", "192.0.2.1");
    dns.ptr("192.0.2.1", "other.test");
    let resolver = dns.address().to_string();
    let variables = [("POSTRIDER_DNS", resolver.as_str()), ("POSTRIDER_HOSTNAME", "postrider.test")];
    let Some(output) = answer_with(14, &app, "", &variables).await else { return };
    assert!(output.contains("192.0.2.1, whose PTR record is other.test"), "{output}");
}

#[tokio::test]
async fn simulated_bounce_comes_back() {
    let app = TestApp::builder().with_inbound().start().await;
    let Some(output) = answer(17, &app, "").await else { return };
    let sent: Value = serde_json::from_str(&output).unwrap_or_else(|_| panic!("{output}"));
    app.run_until_idle().await;
    app.worker.play_simulated_followups().await.unwrap();
    assert_eq!(app.events(sent["id"].as_str().unwrap()).await, ["accepted", "delivered", "bounced"]);
}
