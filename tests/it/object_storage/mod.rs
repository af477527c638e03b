//! Large attachments in an object store (`[attachments]`).

mod cleanup;
mod credentials;
mod deletion;
mod doctor;
mod independent;
mod kills;
mod outages;
mod races;
mod slow_uploads;
mod stored;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use crate::support::app::{TestApp, TestAppBuilder};
use crate::support::s3::S3Server;

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// Returns a builder with this object store.
fn builder(s3: &S3Server) -> TestAppBuilder {
    TestApp::builder().config(|config| s3.configure(config))
}

/// Starts the service with an object store.
async fn start() -> (S3Server, TestApp) {
    let s3 = S3Server::start().await;
    let app = builder(&s3).start().await;
    (s3, app)
}

/// Returns the fields of a message with this file in base64.
fn attaching(data: &[u8]) -> Value {
    json!({"attachments": [{"filename": "a.bin", "content": STANDARD.encode(data)}]})
}

/// Returns the first attachment of a message as it was sent.
fn attachment(raw: &[u8]) -> Vec<u8> {
    let parsed = MessageParser::default().parse(raw).expect("a message");
    let attachment = parsed.attachment(0).expect("an attachment");
    assert_eq!(attachment.attachment_name(), Some("a.bin"));
    attachment.contents().to_vec()
}

/// Returns the number of objects that wait for their deletion, or are being stored.
async fn unreferenced(app: &TestApp) -> i64 {
    let count = "SELECT count(*) FROM unreferenced_objects";
    sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns the keys of the objects that attachments refer to.
async fn referenced(app: &TestApp) -> Vec<String> {
    let keys = "SELECT object_key FROM blobs WHERE object_key IS NOT NULL ORDER BY 1";
    sqlx::query_scalar(keys).fetch_all(&mut app.database.connect().await).await.unwrap()
}

/// Deletes all messages, as retention does with the partitions of old weeks.
async fn delete_messages(app: &TestApp) {
    app.sql("DELETE FROM queue; DELETE FROM recipients; DELETE FROM messages; DELETE FROM contents").await;
}
