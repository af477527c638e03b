//! An attachment's bytes are stored once per tenant, for any number of messages and any size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use postrider::clock::Clock as _;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::hours;

/// A file of one chunk, which is inserted without checking whether it is stored.
const SMALL: &[u8] = &[7; 20_000];
/// A file of two chunks.
const LARGE: &[u8] = &[9; (1 << 20) + 5];

fn with_files(files: &[&[u8]]) -> Value {
    let file = |data: &&[u8]| json!({"filename": "a.bin", "content": STANDARD.encode(data)});
    json!({ "attachments": files.iter().map(file).collect::<Vec<_>>() })
}

/// Returns the sizes of stored blobs, the sizes of their chunks, and the number of blobs used in the last hour.
async fn stored(app: &TestApp) -> (Vec<i64>, Vec<i32>, i64) {
    let mut connection = app.database.connect().await;
    let sizes = sqlx::query_scalar("SELECT size FROM blobs ORDER BY size").fetch_all(&mut connection).await.unwrap();
    let chunks = "SELECT octet_length(data) FROM blob_chunks ORDER BY 1";
    let chunks = sqlx::query_scalar(chunks).fetch_all(&mut connection).await.unwrap();
    let used = sqlx::query_scalar("SELECT count(*) FROM blobs WHERE used_at > $1").bind(app.clock.now() - hours(1));
    (sizes, chunks, used.fetch_one(&mut connection).await.unwrap())
}

#[tokio::test]
async fn concurrent_messages_share_a_blob_and_arrive_complete() {
    let app = TestApp::start().await;
    // One file twice in each message, and one file that differs in each message.
    let requests = (0..20_u8).map(|n| app.send(with_files(&[SMALL, &[n; 100], SMALL, LARGE])));
    join_all(requests).await;
    // Several requests may have stored the large file at the same time; the copies are deleted.
    app.worker.clean_up().await.unwrap();
    let (sizes, chunks, _) = stored(&app).await;
    assert_eq!(sizes, [[100; 20].as_slice(), &[20_000, (1 << 20) + 5]].concat());
    assert_eq!(chunks, [[5].as_slice(), &[100; 20], &[20_000, 1 << 20]].concat());
    app.run_until_idle().await;
    let received = app.smtp.messages();
    let encoded = STANDARD.encode(SMALL);
    assert_eq!(received.len(), 20);
    for message in received {
        let text: String = String::from_utf8(message.raw).unwrap().split("\r\n").collect();
        assert_eq!(text.matches(&encoded).count(), 2);
        assert!(text.contains(&STANDARD.encode(LARGE)));
    }
}

#[tokio::test]
async fn refused_attachment_does_not_prevent_storing_others() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'refused by the test' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON blobs FOR EACH ROW WHEN (NEW.size = 666) EXECUTE FUNCTION refuse()",
    )
    .await;
    let send = async |n: u8| {
        let is_bad = n.is_multiple_of(5);
        let body = message(with_files(&[&vec![n; if is_bad { 666 } else { 100 }]]));
        let response = app.request(Method::POST, "/v1/messages").json(&body).send().await.unwrap();
        assert_eq!(response.status(), if is_bad { 500 } else { 202 }, "{n}");
    };
    join_all((0..20).map(send)).await;
    assert_eq!(stored(&app).await.0, [100; 16]);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 16);
}

#[tokio::test]
async fn attachment_sent_again_is_marked_as_used() {
    let app = TestApp::start().await;
    app.send(with_files(&[SMALL, LARGE])).await;
    app.clock.advance(hours(7));
    assert_eq!(stored(&app).await.2, 0);
    app.send(with_files(&[SMALL, LARGE])).await;
    assert_eq!(stored(&app).await.2, 2);
    // A blob that a crash left incomplete is completed.
    app.sql("DELETE FROM blobs").await;
    app.send(with_files(&[SMALL, LARGE])).await;
    let (sizes, chunks, used) = stored(&app).await;
    assert_eq!((sizes.len(), chunks.len(), used), (2, 3, 2));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 3);
}
