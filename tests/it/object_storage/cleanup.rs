//! Objects are deleted when no attachment refers to them, and not before.

use reqwest::Method;

use super::{MIB, attaching, delete_messages, referenced, start, unreferenced};
use crate::support::client::message;
use crate::support::clock::hours;
use crate::support::s3::Mode;
use crate::support::uploads::{attached, file, put, sha256};

#[tokio::test]
async fn object_of_an_interrupted_upload_is_deleted_after_a_day() {
    let (s3, app) = start().await;
    s3.set(Mode::FailsAfterPut);
    let request = app.request(Method::POST, "/v1/messages").json(&message(attaching(&file(1, MIB))));
    assert_eq!(request.send().await.unwrap().status().as_u16(), 503);
    s3.set(Mode::Works);
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (1, 1));
    for (passed, left) in [(0, 1), (23, 1), (2, 0)] {
        app.clock.advance(hours(passed));
        app.worker.clean_up().await.unwrap();
        assert_eq!(s3.keys().len(), left, "after {passed} hours more");
    }
    assert_eq!(unreferenced(&app).await, 0);
}

#[tokio::test]
async fn object_is_deleted_with_its_attachment() {
    let (s3, app) = start().await;
    app.send(attaching(&file(1, MIB))).await;
    put(&app, &file(2, 3 * MIB)).await;
    app.run_until_idle().await;
    app.clock.advance(hours(8 * 24));
    let cleaned = app.worker.clean_up().await.unwrap();
    assert_eq!((cleaned.blobs, cleaned.objects), (1, 1), "no message refers to the upload");
    assert_eq!(s3.keys(), referenced(&app).await);
    delete_messages(&app).await;
    app.clock.advance(hours(8 * 24));
    let cleaned = app.worker.clean_up().await.unwrap();
    assert_eq!((cleaned.blobs, cleaned.objects), (1, 1));
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (0, 0));
    let data = file(1, MIB);
    assert_eq!(put(&app, &data).await.status, 201, "it can be stored again");
    app.send(attached(&[&sha256(&data)])).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.received(2).await.len(), 2);
}

#[tokio::test]
async fn other_objects_in_the_bucket_are_left_alone() {
    let (s3, app) = start().await;
    s3.insert("postrider/of-another-installation".into(), "x".into());
    put(&app, &file(1, MIB)).await;
    app.clock.advance(hours(8 * 24));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!(s3.keys(), ["postrider/of-another-installation"]);
}
