//! A message is redacted while another request attaches the same file.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::stream;
use postrider::clock::Clock as _;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::minutes;
use crate::support::form::{BOUNDARY, Form, content_type};
use crate::support::until::until;
use crate::support::uploads::{attached, file, put, sha256, stored};

/// Sends a form whose bytes come from the channel.
async fn send(app: &TestApp, pieces: mpsc::UnboundedReceiver<Vec<u8>>) -> reqwest::Response {
    let pieces = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((Ok::<_, std::io::Error>(piece), pieces))
    });
    let request = app.request(Method::POST, "/v1/messages").header(CONTENT_TYPE, content_type());
    request.body(Body::wrap_stream(pieces)).send().await.unwrap()
}

#[tokio::test]
async fn file_released_during_a_slow_form_is_not_lost() {
    let app = TestApp::start().await;
    // So large that it is stored as soon as its part has ended.
    let data = file(1, 300_000);
    put(&app, &data).await;
    let first = app.send(attached(&[&sha256(&data)])).await.id;
    app.run_until_idle().await;
    app.clock.advance(minutes(1));
    let fields = message(json!({"attachments": [{"filename": "a.bin", "part": "file"}]}));
    let (file, message) = (Form::default().file("file", &data), Form::default().message(&fields).bytes());
    let (start, end) = message.split_at(BOUNDARY.len() + 4);
    let (pieces, body) = mpsc::unbounded_channel();
    pieces.send([file.clone().unfinished(), start.to_vec()].concat()).unwrap();
    let slowly = async {
        until("the file is stored again", Duration::from_secs(30), async || {
            let used = sqlx::query_scalar::<_, DateTime<Utc>>("SELECT used_at FROM blobs");
            let used = used.fetch_one(&mut app.database.connect().await).await.unwrap();
            if used == app.clock.now() { Ok(()) } else { Err(used) }
        })
        .await;
        assert_eq!(app.post(&format!("/v1/messages/{first}/redact"), &json!({})).await.status, 200);
        assert_eq!(
            app.worker.clean_up().await.unwrap().blobs,
            0,
            "a replica of the previous version may be about to attach it"
        );
        app.clock.advance(minutes(1));
        assert_eq!(app.worker.clean_up().await.unwrap().blobs, 1, "no message refers to it");
        pieces.send(end.to_vec()).unwrap();
        drop(pieces);
    };
    let (refused, ()) = tokio::join!(send(&app, body), slowly);
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(refused.json::<Value>().await.unwrap()["code"], "unavailable");
    assert_eq!(stored(&app).await.0, 0);
    let sent = file.message(&fields).send(&app).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    app.run_until_idle().await;
    let raw = app.smtp.received(2).await.remove(1).raw;
    let parsed = mail_parser::MessageParser::default().parse(&raw).unwrap();
    assert!(parsed.attachment(0).unwrap().contents() == data);
}

/// Small attachments are not flushed before their message is committed: a crash of the database server in between loses them.
#[tokio::test]
async fn message_whose_attachments_were_lost_is_not_accepted() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
         CREATE TRIGGER lose BEFORE INSERT ON blob_references FOR EACH ROW EXECUTE FUNCTION lose()",
    )
    .await;
    let attachments = json!([{"filename": "a.txt", "content_type": "text/plain", "content": "aGVsbG8="}]);
    let with_file = message(json!({"attachments": attachments}));
    let bulk = json!({"from": "news@acme.test", "subject": "News", "text": "We have moved.", "attachments": attachments,
                      "recipients": [{"to": "ann@example.test"}]});
    for (path, body) in [("/v1/messages", &with_file), ("/v1/messages/bulk", &bulk)] {
        let response = app.request(Method::POST, path).json(body).send().await.unwrap();
        assert!(response.status().is_server_error(), "{path}: {}", response.text().await.unwrap());
    }
    assert_eq!(app.post("/v1/messages", &message(json!({}))).await.status, 202, "others are accepted");
    app.sql("DROP TRIGGER lose ON blob_references; DROP FUNCTION lose").await;
    assert_eq!(app.post("/v1/messages", &with_file).await.status, 202);
    let listed = app.get("/v1/messages").await;
    assert_eq!(listed.body["data"].as_array().unwrap().len(), 2, "{}", listed.body);
}
