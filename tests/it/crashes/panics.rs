//! A message that makes a worker panic does not affect others.

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;

#[tokio::test]
async fn message_with_an_overflowing_deadline_is_held_others_are_sent() {
    let app = TestApp::start().await;
    let message = app.send(json!({})).await;
    // One of the last possible dates, so that adding the retry window overflows.
    app.sql("UPDATE queue SET first_due_at = '262142-12-30T00:00:00Z'").await;
    let other = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!((app.status(&other.id).await.as_str(), app.smtp.messages().len()), ("relayed", 1));
    let ann = app.recipient(&message.id).await;
    assert!(ann["held"].as_str().is_some_and(|held| held.starts_with("held: postrider failed")), "{ann}");
    assert_eq!(app.post(&format!("/v1/messages/{}/cancel", message.id), &json!({})).await.status, 200);
}

#[tokio::test]
async fn panic_is_logged_without_its_message() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let api = Service::start(serve(&database.url, smtp.address(), &["--only", "api"])).await;
    Api::new(api.address.clone().unwrap(), key(&database.url).await).send(json!({})).await;
    let overflow = "UPDATE queue SET first_due_at = '262142-12-30T00:00:00Z'";
    sqlx::raw_sql(overflow).execute(&mut database.connect().await).await.unwrap();
    let mut worker = Service::start(serve(&database.url, smtp.address(), &["--only", "worker"])).await;
    let line = worker.logged_event("panic").await;
    assert!(line["location"].as_str().is_some_and(|location| location.contains(".rs:")), "{line}");
    assert!(line["payload"].is_null() && line["message"] == "a task panicked", "{line}");
    assert!(worker.lines().iter().all(serde_json::Value::is_object), "the default hook prints text");
    assert!(worker.terminate().await.success() && api.terminate().await.success());
}
