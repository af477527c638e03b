//! Bulks as `multipart/form-data`: the JSON in the part `message`, and the files to attach.

use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};

use super::{PATH, accepted, bulk, counts, expanded, read, recipients};
use crate::support::app::TestApp;
use crate::support::form::Form;
use crate::support::uploads::{file, stored};

/// Returns a bulk to this many recipients that attaches a part.
fn with_part(count: usize, part: &str) -> Value {
    bulk(&recipients(count), json!({"attachments": [{"filename": "map.bin", "part": part}]}))
}

#[tokio::test]
async fn file_of_a_form_is_received_by_all_recipients() {
    let app = TestApp::start().await;
    let data = file(1, 200_000);
    let form = Form::default().file("map", &data).message(&with_part(5, "map"));
    let id = accepted(&form.post(&app, PATH).await);
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(counts(&read(&app, &id).await), json!({"relayed": 5}));
    let received = app.smtp.messages();
    assert_eq!(received.len(), 5);
    for message in received {
        let mail = MessageParser::default().parse(&message.raw).unwrap();
        let attached = mail.attachment(0).unwrap();
        assert!(attached.attachment_name() == Some("map.bin") && attached.contents() == data);
    }
    app.worker.clean_up().await.unwrap();
    assert_eq!(stored(&app).await, (1, 1, 0));
}

#[tokio::test]
async fn unused_and_unknown_parts_refuse_the_bulk() {
    let app = TestApp::start().await;
    let form = Form::default().message(&with_part(2, "missing")).file("unused", b"1");
    let refused = form.post(&app, PATH).await;
    let expected = vec![("unused", "unused_part"), ("/attachments/0/part", "unknown_part")];
    assert_eq!((refused.status, refused.faults()), (422, expected));
    let refused = Form::default().file("map", b"1").post(&app, PATH).await;
    assert_eq!((refused.status, refused.faults()), (422, vec![("message", "required")]));
    assert_eq!(app.get("/v1/bulks").await.body["data"], json!([]));
}

#[tokio::test]
async fn repeated_form_returns_the_first_bulk() {
    let app = TestApp::start().await;
    let (one, two) = (file(1, 400_000), file(2, 400_000));
    let first = Form::default().file("map", &one).message(&with_part(2, "map"));
    let first = first.post_with_key(&app, PATH, "news-7").await;
    let renamed = Form::default().message(&with_part(2, "plan")).file("plan", &one);
    let again = renamed.post_with_key(&app, PATH, "news-7").await;
    assert_eq!((accepted(&again), &again.body), (accepted(&first), &first.body));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    let other = Form::default().message(&with_part(2, "map")).file("map", &two);
    assert_eq!(other.post_with_key(&app, PATH, "news-7").await.problem(), (422, "idempotency_key_reused"));
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
}

#[tokio::test]
async fn recipient_key_does_not_depend_on_the_name_of_a_part() {
    let app = TestApp::start().await;
    let keyed = |part: &str| {
        let list = json!([{"to": "ann@example.test", "idempotency_key": "news-7-ann"}]);
        bulk(&list, json!({"attachments": [{"filename": "map.bin", "part": part}]}))
    };
    accepted(&Form::default().file("map", b"1").message(&keyed("map")).post(&app, PATH).await);
    let again = Form::default().file("plan", b"1").message(&keyed("plan")).post(&app, PATH).await;
    assert_eq!((&again.body["accepted"], &again.body["replayed"]), (&json!(0), &json!(1)));
    expanded(&app.database).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
}
