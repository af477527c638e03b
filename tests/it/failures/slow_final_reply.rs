//! A server that replies to the final dot only after minutes, as filters do, gets one copy.

use std::time::Duration;

use postrider::domain::outcome::Verdict::Accepted;
use postrider::smtp::{Settings, Timeouts};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::minutes;
use crate::support::sending::{relay, send_one, sender};
use crate::support::smtp::{Action, SmtpServer};

#[tokio::test]
async fn a_reply_ten_minutes_after_the_dot_makes_one_copy() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({"on_uncertain": "retry"})).await;
    let working = app.start_working();
    gate.reached().await;

    // Another worker, which could send the message again, checks for dead workers every 75 seconds.
    let other = app.another_worker().await;
    for _ in 0..8 {
        app.clock.advance(minutes(1) + minutes(1) / 4);
        other.rescue_leases().await.unwrap();
        other.drain().await.unwrap();
        assert_eq!(app.status(&sent.id).await, "sending");
    }
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.events(&sent.id).await, ["accepted", "relayed"]);
    assert_eq!((app.smtp.messages().len(), app.smtp.count("DATA")), (1, 1));
}

/// The reply takes longer than every other time limit, and than the maximum age of a connection.
#[tokio::test]
async fn the_reply_to_the_dot_has_its_own_time_limit() {
    let smtp = SmtpServer::start().await;
    let short = Duration::from_millis(150);
    smtp.dot().does([Action::ReplyAfter("250 2.0.0 at last".into(), 3 * short)]);
    let timeouts = Timeouts { block: short, data: short, mail: short, rcpt: short, ehlo: short, ..Timeouts::default() };
    let sender = sender(Settings { timeouts, connection_age: short, relay_idle: short, ..relay(&smtp) });
    let outcome = send_one(&sender).await;
    assert_eq!((outcome.verdict, smtp.messages().len()), (Accepted, 1));
}

#[tokio::test]
#[ignore = "takes ten minutes, because it uses real time limits: cargo test --test it slow_final_reply -- --ignored"]
async fn a_reply_after_nine_real_minutes_makes_one_copy() {
    for seconds in [75, 540] {
        let smtp = SmtpServer::start().await;
        smtp.dot().does([Action::ReplyAfter("250 2.0.0 at last".into(), Duration::from_secs(seconds))]);
        let outcome = send_one(&sender(relay(&smtp))).await;
        assert_eq!((outcome.verdict, smtp.messages().len(), smtp.connections()), (Accepted, 1, 1), "{seconds} s");
    }
}
