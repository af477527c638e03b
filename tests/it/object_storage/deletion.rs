//! Objects are deleted with what they belong to: on request, and with their tenant.

use std::time::Duration;

use serde_json::json;

use super::{MIB, attaching, referenced, start, unreferenced};
use crate::support::clock::{hours, minutes, seconds};
use crate::support::until::until;
use crate::support::uploads::file;
use crate::tenants::tenant;

#[tokio::test]
async fn redacted_message_takes_its_object_with_it() {
    let (s3, app) = start().await;
    let (own, shared) = (file(1, MIB), file(2, MIB));
    let redacted = app.send(attaching(&own)).await.id;
    let also = app.send(attaching(&shared)).await.id;
    app.send(attaching(&shared)).await;
    app.run_until_idle().await;
    for id in [&redacted, &also] {
        assert_eq!(app.post(&format!("/v1/messages/{id}/redact"), &json!({})).await.status, 200);
    }
    app.clock.advance(minutes(11));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!(s3.keys(), referenced(&app).await);
    assert_eq!(s3.keys().len(), 1, "another message attaches it");
}

#[tokio::test]
async fn erasure_deletes_objects() {
    let (s3, app) = start().await;
    app.send(attaching(&file(1, MIB))).await;
    let other = file(2, MIB);
    let mut to_other = attaching(&other);
    to_other["to"] = json!("bo@example.test");
    app.send(to_other).await;
    app.run_until_idle().await;
    let started = app.post("/v1/privacy/erase", &json!({"address": "ann@example.test"})).await;
    assert_eq!(started.status, 202, "{}", started.body);
    let path = format!("/v1/privacy/erasures/{}", started.body["id"].as_str().unwrap());
    until("the erasure ends", Duration::from_secs(30), async || {
        let erasure = app.get(&path).await.body;
        if erasure["status"] == "running" { Err(erasure) } else { Ok(()) }
    })
    .await;
    app.clock.advance(minutes(11));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!(s3.keys(), referenced(&app).await);
    assert!(s3.keys()[0].contains(&crate::support::uploads::sha256(&other)));
}

#[tokio::test]
async fn objects_of_a_deleted_tenant_are_deleted() {
    let (s3, app) = start().await;
    let (gone, kept) = (tenant(&app, "gone", json!({})).await, tenant(&app, "kept", json!({})).await);
    let data = file(1, MIB);
    gone.api.send(attaching(&data)).await;
    kept.api.send(attaching(&data)).await;
    assert_eq!(s3.keys().len(), 2, "tenants share no object");
    assert_eq!(app.delete(&format!("/v1/tenants/{}", gone.id)).await.status, 202);
    app.clock.advance(seconds(61));
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!((s3.keys(), unreferenced(&app).await), (referenced(&app).await, 0));
    app.run_until_idle().await;
    assert_eq!(app.smtp.received(1).await.len(), 1);
}

#[tokio::test]
async fn object_follows_the_retention_of_content() {
    let (s3, app) = start().await;
    let id = app.send(attaching(&file(1, MIB))).await.id;
    app.run_until_idle().await;
    for _ in 0..9 {
        app.clock.advance(hours(7 * 24));
        let now = postrider::clock::Clock::now(&*app.clock);
        postrider::db::schema::partitions::ensure(&app.db, now).await.unwrap();
        app.worker.delete_old_data().await.unwrap();
        app.worker.clean_up().await.unwrap();
    }
    assert_eq!((s3.keys().len(), unreferenced(&app).await), (0, 0));
    assert_eq!(app.get(&format!("/v1/messages/{id}/attachments/0")).await.status, 410);
}
