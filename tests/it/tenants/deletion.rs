//! The data of a deleted tenant is deleted by a job, and that of the others is not.

use std::time::Duration;

use postrider::config::PrivateMx;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Row as _;

use super::{PATH, Tenant, tenant};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::{hours, seconds};
use crate::support::postgres::until_waiting_for_lock;
use crate::support::until::until;
use crate::support::uploads::{put, sha256};

/// Starts the service with everything that a tenant can have.
async fn start() -> TestApp {
    let builder = TestApp::builder().with_inbound().config(|config| {
        config.webhooks.allow_private = true;
        config.inbound.allow_private_relays = PrivateMx::These(vec!["127.0.0.0/8".into()]);
    });
    builder.start().await
}

/// Gives a tenant rows in every table that the API writes.
async fn fill(app: &TestApp, Tenant { api, id }: &Tenant) {
    let enqueued = "
        WITH sender AS (INSERT INTO sql_senders (role, tenant_id, created_at) VALUES ($1::text::name, $2, now()))
        INSERT INTO sql_inbox (tenant_id, id, payload, size, role, created_at, refused_at, errors)
        VALUES ($2, gen_random_uuid(), '{}', 2, $1::text::name, now(), now(), '[]')";
    let uuid = uuid::Uuid::parse_str(id.strip_prefix("ten_").unwrap()).unwrap();
    let enqueued = sqlx::query(enqueued).bind(id).bind(uuid);
    enqueued.execute(&mut app.database.connect().await).await.unwrap();
    app.smtp.rcpt("gone@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("later@example.test").replies(["451 4.7.1 later"]);
    assert_eq!(api.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    assert_eq!(api.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.status, 201);
    let domain = format!("{}.in.test", id.trim_start_matches("ten_"));
    let route = json!({"match": format!("*@{domain}"), "action": {"type": "store"}});
    assert_eq!(api.post("/v1/inbound-routes", &route).await.status, 201);
    assert!(app.deliver_bounce(&format!("x@{domain}"), "Subject: Hi\r\n\r\nHi\r\n").await.starts_with("250"));
    relay_a_message(app, api, &format!("relay.{domain}")).await;
    let template = json!({"name": "Hi", "alias": "hi", "subject": "Hi", "html": "<p>Hi</p>"});
    assert_eq!(api.post("/v1/templates", &template).await.status, 201);
    assert!(api.post("/v1/templates/hi/publish", &json!({})).await.status < 300);
    assert_eq!(api.post("/v1/suppressions", &json!({"address": "no@example.test"})).await.status, 200);
    assert!(put(api, b"terms").await.status < 300);
    let file = json!([{"filename": "terms.txt", "sha256": sha256(b"terms")}]);
    let to = ["ann@example.test", "gone@example.test", "later@example.test", "no@example.test"];
    let one = |to: &&str| message(json!({"to": to, "attachments": file, "idempotency_key": to}));
    let batch: Vec<Value> = to.iter().map(one).collect();
    assert_eq!(api.post("/v1/messages/batch", &json!(batch)).await.status, 202);
    api.send(json!({"scheduled_at": app.clock.text_in(hours(100))})).await;
    api.send(json!({"to": "complaint@simulator.postrider.test"})).await;
    let bulk = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "attachments": file,
                      "recipients": [{"to": "bo@example.test"}, {"to": "cy@example.test"}]});
    assert_eq!(api.post("/v1/messages/bulk", &bulk).await.status, 202);
    let raw = "From: a@acme.test\r\nTo: ann@example.test\r\nMessage-ID: <own@acme.test>\r\nSubject: x\r\n\r\nHi\r\n";
    let request = api.request(Method::POST, "/v1/messages").header("content-type", "message/rfc822");
    assert_eq!(ApiResponse::to(request.body(raw)).await.status, 202);
    until("the bulk is two messages", Duration::from_secs(20), async || {
        let waiting = rows_in(app, "bulk_recipients").await;
        if waiting == 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
    app.run_until_idle().await;
    app.worker.notify().await.unwrap();
    for action in ["pause", "resume"] {
        assert_eq!(api.post(&format!("/v1/streams/bulk/{action}"), &json!({})).await.status, 200);
    }
    assert_eq!(api.post("/v1/privacy/erase", &json!({"address": "zoe@example.test"})).await.status, 202);
    let action = json!({"action": "retry", "filter": {"stream": "bulk"}});
    assert_eq!(api.post("/v1/messages/actions", &action).await.status, 202);
}

/// Receives a message for a route that passes it on to an unreachable server, and waits until it is queued.
async fn relay_a_message(app: &TestApp, api: &Api, domain: &str) {
    let action = json!({"type": "relay", "to": "smtp://127.0.0.1:1?tls=none"});
    let route = json!({"match": format!("*@{domain}"), "action": action});
    assert_eq!(api.post("/v1/inbound-routes", &route).await.status, 201);
    assert!(app.deliver_bounce(&format!("x@{domain}"), "Subject: Hi\r\n\r\nHi\r\n").await.starts_with("250"));
    until("the message is queued", Duration::from_secs(20), async || {
        let waiting = "SELECT count(*) FROM relays WHERE message_id IS NULL";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut app.database.connect().await).await.unwrap();
        if waiting == 0 { Ok(()) } else { Err(waiting) }
    })
    .await;
}

/// Returns the number of rows in a table.
async fn rows_in(app: &TestApp, table: &str) -> i64 {
    let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}"));
    sqlx::query_scalar(count).fetch_one(&mut app.database.connect().await).await.unwrap()
}

/// Returns the number of rows of a tenant in each table that has any, without those that are kept.
pub(super) async fn rows(app: &TestApp, tenant: &str) -> Vec<(String, i64)> {
    let id = uuid::Uuid::parse_str(tenant.strip_prefix("ten_").unwrap()).unwrap();
    let mut connection = app.database.connect().await;
    let tables = sqlx::query(
        "SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname <> 'tenant_deletions' ORDER BY 1",
    );
    let tables: Vec<String> = tables.fetch_all(&mut connection).await.unwrap().iter().map(|row| row.get(0)).collect();
    let mut found = Vec::new();
    for table in tables {
        let count = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE tenant_id = $1"));
        let count: i64 = sqlx::query_scalar(count).bind(id).fetch_one(&mut connection).await.unwrap();
        if count > 0 {
            found.push((table, count));
        }
    }
    found
}

/// Deletes some rows of one tenant.
pub(super) async fn advance(app: &TestApp) {
    let now = postrider::clock::Clock::now(&*app.clock);
    postrider::db::tenants::deletion::advance(&app.db, now).await.unwrap();
}

async fn shown(app: &TestApp, id: &str) -> Value {
    app.get(&format!("{PATH}/{id}")).await.body
}

#[tokio::test]
async fn all_data_of_a_deleted_tenant_is_deleted() {
    let app = start().await;
    let (gone, kept) = (tenant(&app, "gone", json!({})).await, tenant(&app, "kept", json!({})).await);
    fill(&app, &gone).await;
    fill(&app, &kept).await;
    let of_gone = rows(&app, &gone.id).await;
    assert!(of_gone.len() > 20, "{of_gone:?}");
    assert!(of_gone.contains(&("relays".to_owned(), 1)), "{of_gone:?}");

    let deleted = app.delete(&format!("{PATH}/{}", gone.id)).await;
    assert_eq!((deleted.status, &deleted.body["status"]), (202, &json!("deleting")), "{}", deleted.body);
    assert_eq!(gone.api.get("/v1/messages").await.status, 401, "its keys are revoked");
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(rows(&app, &gone.id).await, of_gone, "requests that began before may still be in progress");
    app.clock.advance(seconds(61));
    app.run_until_idle().await;
    // A deferred recipient of the other tenant was due.
    let before = rows(&app, &kept.id).await;
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(rows(&app, &gone.id).await, []);
    assert_eq!(rows(&app, &kept.id).await, before);

    let tenant = shown(&app, &gone.id).await;
    assert_eq!((&tenant["status"], &tenant["name"]), (&json!("deleted"), &json!(gone.id)));
    assert_eq!((&tenant["deletion"]["messages"], &tenant["suspension"]), (&json!(10), &json!(null)), "{tenant}");
    assert!(tenant["deletion"]["rows"].as_i64().unwrap() > 40, "{tenant}");
    assert_eq!(app.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn tombstone_stays_and_frees_the_name() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let path = format!("{PATH}/{}", acme.id);
    app.delete(&path).await;
    assert_eq!(app.post(PATH, &json!({"name": "Acme"})).await.status, 409, "the name is free once it is deleted");
    assert_eq!(app.patch(&path, &json!({"name": "x"})).await.problem(), (409, "tenant_not_changeable"));
    for action in ["suspend", "resume"] {
        let refused = app.post(&format!("{path}/{action}"), &json!({})).await;
        assert_eq!(refused.problem(), (409, "tenant_not_changeable"));
    }
    let key = json!({"name": "x", "tenant": acme.id});
    assert_eq!(app.post("/v1/keys", &key).await.faults(), [("/tenant", "unknown_tenant")]);
    app.clock.advance(seconds(61));
    app.worker.delete_tenants().await.unwrap();
    tenant(&app, "Acme", json!({})).await;
    assert_eq!(app.delete(&path).await.status, 202, "deleting it again changes nothing");
    assert_eq!(shown(&app, &acme.id).await["status"], "deleted");
    let listed = app.get(&format!("{PATH}?status=deleted")).await.body;
    assert_eq!(listed["data"][0]["id"], acme.id);
}

#[tokio::test]
async fn default_tenant_cannot_be_deleted() {
    let app = TestApp::start().await;
    let path = format!("{PATH}/ten_00000000000000000000000000000000");
    assert_eq!(app.delete(&path).await.problem(), (409, "tenant_not_changeable"));
    app.send(json!({})).await;
    assert_eq!(app.get(&path).await.body["status"], "active");
}

#[tokio::test]
async fn deletion_waits_for_attempts_in_progress() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let (sent, _) = (acme.api.send(json!({})).await, acme.api.send(json!({"to": "bo@example.test"})).await);
    let gate = app.smtp.dot().stalls();
    let working = app.start_working();
    gate.reached().await;
    assert_eq!(app.delete(&format!("{PATH}/{}", acme.id)).await.status, 202);
    app.clock.advance(seconds(61));
    let other = app.another_worker().await;
    other.delete_tenants().await.unwrap();
    assert_eq!(shown(&app, &acme.id).await["status"], "deleting");
    let left = rows(&app, &acme.id).await;
    assert!(left.contains(&("queue".to_owned(), 1)) || left.contains(&("queue".to_owned(), 2)), "{left:?}");

    gate.open();
    working.await.unwrap().unwrap();
    app.clock.advance(seconds(5));
    other.delete_tenants().await.unwrap();
    assert_eq!(
        (rows(&app, &acme.id).await, shown(&app, &acme.id).await["status"].clone()),
        (Vec::new(), json!("deleted"))
    );
    assert!(!app.smtp.messages().is_empty(), "{}", sent.id);
}

#[tokio::test]
async fn deletion_ends_while_other_tenants_send() {
    let app = TestApp::start().await;
    let (gone, other) = (tenant(&app, "gone", json!({})).await, tenant(&app, "other", json!({})).await);
    gone.api.send(json!({})).await;
    app.delete(&format!("{PATH}/{}", gone.id)).await;
    app.clock.advance(seconds(61));
    for _ in 0..60 {
        other.api.send(json!({})).await;
        advance(&app).await;
        if shown(&app, &gone.id).await["status"] == "deleted" {
            assert_eq!(rows(&app, &gone.id).await, []);
            return;
        }
    }
    panic!("the deletion goes on: {:?}", rows(&app, &gone.id).await);
}

#[tokio::test]
async fn failing_deletion_does_not_stop_others() {
    let app = TestApp::start().await;
    let (failing, other) = (tenant(&app, "failing", json!({})).await, tenant(&app, "other", json!({})).await);
    app.sql(
        "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$;
         CREATE TRIGGER fail BEFORE DELETE ON streams FOR EACH ROW
         WHEN (OLD.weight = 7) EXECUTE FUNCTION fail()",
    )
    .await;
    let weight = failing.api.patch("/v1/streams/bulk", &json!({"weight": 7})).await;
    assert_eq!(weight.status, 200, "{}", weight.body);
    for tenant in [&failing, &other] {
        assert_eq!(app.delete(&format!("{PATH}/{}", tenant.id)).await.status, 202);
        app.clock.advance(seconds(1));
    }
    app.clock.advance(seconds(60));
    assert!(app.worker.delete_tenants().await.is_err(), "the error is logged");
    assert_eq!(shown(&app, &failing.id).await["status"], "deleting");
    assert_eq!(shown(&app, &other.id).await["status"], "deleted");

    app.sql("DROP TRIGGER fail ON streams").await;
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(shown(&app, &failing.id).await["status"], "deleting", "it waits for a minute");
    app.clock.advance(seconds(60));
    app.worker.delete_tenants().await.unwrap();
    assert_eq!(shown(&app, &failing.id).await["status"], "deleted");
}

#[tokio::test]
async fn rows_that_late_requests_add_are_deleted() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    app.delete(&format!("{PATH}/{}", acme.id)).await;
    app.clock.advance(seconds(61));
    for _ in 0..60 {
        if rows(&app, &acme.id).await.is_empty() {
            break;
        }
        advance(&app).await;
    }
    app.sql(
        "INSERT INTO pauses (tenant_id, stream, paused_at, resumed_at)
         SELECT tenant_id, 'bulk', now(), now() FROM tenant_deletions",
    )
    .await;
    assert_eq!(rows(&app, &acme.id).await, [("pauses".to_owned(), 1)]);
    app.worker.delete_tenants().await.unwrap();
    assert_eq!((shown(&app, &acme.id).await["status"].as_str(), rows(&app, &acme.id).await), (Some("deleted"), vec![]));
}

#[tokio::test]
async fn no_key_is_created_while_a_deletion_starts() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let (mut deletion, mut watching) = (app.database.connect().await, app.database.connect().await);
    let start = "BEGIN; UPDATE tenants SET suspended_at = now(), deleting_at = now() WHERE name = 'Acme'";
    sqlx::raw_sql(start).execute(&mut deletion).await.unwrap();
    let body = json!({"name": "x", "tenant": acme.id});
    let create = async { app.post("/v1/keys", &body).await };
    let commit = async {
        until_waiting_for_lock(&mut watching, "INSERT INTO keys").await;
        sqlx::raw_sql("COMMIT").execute(&mut deletion).await.unwrap();
    };
    let (created, ()) = tokio::join!(create, commit);
    assert_eq!(created.faults(), [("/tenant", "unknown_tenant")], "{}", created.body);
    let test = json!({"name": "x", "tenant": acme.id, "mode": "test"});
    assert_eq!(app.post("/v1/keys", &test).await.faults(), [("/tenant", "unknown_tenant")]);
    let keys = rows(&app, &acme.id).await.into_iter().find(|(table, _)| table == "keys");
    assert_eq!(keys, Some(("keys".to_owned(), 1)), "only its first key exists");
}

#[tokio::test]
async fn several_workers_delete_in_turn_and_continue_after_a_crash() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    for _ in 0..3 {
        let batch: Vec<Value> = (0..150).map(|_| message(json!({}))).collect();
        assert_eq!(acme.api.post("/v1/messages/batch", &json!(batch)).await.status, 202);
    }
    app.delete(&format!("{PATH}/{}", acme.id)).await;
    app.clock.advance(seconds(61));
    // The first steps, as of a worker that then crashes: each is a transaction of its own.
    for _ in 0..2 {
        advance(&app).await;
    }
    let progress = shown(&app, &acme.id).await["deletion"]["messages"].as_i64().unwrap();
    assert!((1..450).contains(&progress), "{progress} messages");
    let workers = [app.another_worker().await, app.another_worker().await, app.worker.clone()];
    for done in futures_util::future::join_all(workers.iter().map(postrider::worker::Worker::delete_tenants)).await {
        done.unwrap();
    }
    app.worker.delete_tenants().await.unwrap();
    let tenant = shown(&app, &acme.id).await;
    assert_eq!((&tenant["status"], &tenant["deletion"]["messages"]), (&json!("deleted"), &json!(450)));
    assert_eq!(rows(&app, &acme.id).await, []);
}
