//! `GET /v1/messages`: order, pages and filters.

use chrono::TimeDelta;
use postrider::domain::delivery::{MessageStatus, Status};
use postrider::domain::id::TenantId;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::app::TestApp;
use crate::support::client::message;
use crate::support::clock::minutes;

fn subjects(page: &Value) -> Vec<&str> {
    page["data"].as_array().unwrap().iter().map(|message| message["subject"].as_str().unwrap()).collect()
}

async fn found(app: &TestApp, query: &str) -> Vec<String> {
    let response = app.get(&format!("/v1/messages?{query}")).await;
    assert_eq!(response.status, 200, "{query}: {}", response.body);
    subjects(&response.body).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn pages_follow_each_other_without_gap_or_repetition() {
    let app = TestApp::start().await;
    for n in 0..7 {
        app.send(json!({"subject": format!("{n}")})).await;
        app.clock.advance(minutes(1));
    }
    let (mut read, mut next) = (Vec::new(), String::new());
    loop {
        let page = app.get(&format!("/v1/messages?limit=3{next}")).await.body;
        read.extend(subjects(&page).into_iter().map(str::to_owned));
        assert_eq!(page["has_more"], json!(page["next"].is_string()));
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&after={cursor}");
        // New messages belong before the first page.
        app.send(json!({"subject": "new"})).await;
        app.clock.advance(minutes(1));
    }
    assert_eq!(read, ["6", "5", "4", "3", "2", "1", "0"]);
}

#[tokio::test]
async fn each_filter_returns_only_matching_messages() {
    let app = TestApp::start().await;
    let start = app.clock.text_in(minutes(0));
    app.send(json!({"subject": "one", "stream": "bulk", "tags": [{"name": "kind", "value": "news"}]})).await;
    app.clock.advance(minutes(1));
    let middle = app.clock.text_in(minutes(0));
    app.send(
        json!({"subject": "Two of 100%_", "from": "Me@Other.test", "to": "Bo@Example.test", "cc": "cy@example.test",
        "tags": [{"name": "kind", "value": "invoice"}, {"name": "a", "value": "b"}]}),
    )
    .await;
    app.clock.advance(minutes(1));
    app.smtp.rcpt("dee@example.test").replies(["550 5.1.1 unknown"]);
    app.send(json!({"subject": "three", "to": ["ann@example.test", "dee@example.test"]})).await;
    app.run_until_idle().await;
    app.clock.advance(minutes(1));
    app.send(json!({"subject": "four", "scheduled_at": app.clock.text_in(minutes(9))})).await;

    let encoded = |time: &str| time.replace('+', "%2B");
    for (query, expected) in [
        ("status=relayed", vec!["Two of 100%_", "one"]),
        ("status=partial", vec!["three"]),
        ("status=scheduled", vec!["four"]),
        ("status=bounced", vec![]),
        ("status=sending", vec![]),
        ("to=bo@example.test", vec!["Two of 100%_"]),
        ("to=CY@example.test", vec!["Two of 100%_"]),
        ("to=dee@example.test", vec!["three"]),
        ("from=me@other.test", vec!["Two of 100%_"]),
        ("subject=TWO", vec!["Two of 100%_"]),
        ("subject=0%25_", vec!["Two of 100%_"]),
        ("subject=_w", vec![]),
        ("tag=kind:invoice", vec!["Two of 100%_"]),
        ("tag=kind:b", vec![]),
        ("stream=bulk", vec!["one"]),
        ("stream=none", vec![]),
        (&format!("created_after={}", encoded(&middle)), vec!["four", "three", "Two of 100%_"]),
        (&format!("created_before={}", encoded(&middle)), vec!["one"]),
        (&format!("created_after={}&to=ann@example.test&status=relayed", encoded(&start)), vec!["one"]),
    ] {
        assert_eq!(found(&app, query).await, expected, "{query}");
    }
}

/// Recipients of test messages, one vector for each column.
#[derive(Default)]
struct Rows {
    message: Vec<Uuid>,
    position: Vec<i16>,
    stored: Vec<&'static str>,
    due_in: Vec<TimeDelta>,
    lease: Vec<Option<Uuid>>,
}

/// SQL computes the status for the filter, and Rust the returned status. They must agree for every set of recipients'
/// states.
#[tokio::test]
async fn status_filter_agrees_with_returned_status() {
    let app = TestApp::start().await;
    let (mut rows, mut returned) = (Rows::default(), Vec::new());
    for set in 1..1_u32 << Status::ALL.len() {
        let message = Uuid::now_v7();
        let states = Status::ALL.into_iter().enumerate().filter(|(n, _)| set >> n & 1 == 1).map(|(_, status)| status);
        returned.push((message, MessageStatus::from_recipients(states.clone()).as_str().to_owned()));
        for status in states {
            let stored = if matches!(status, Status::Sending | Status::Scheduled) { Status::Queued } else { status };
            rows.message.push(message);
            rows.position.push(i16::try_from(rows.position.len() % 1_000).unwrap());
            rows.stored.push(stored.as_str());
            rows.due_in.push(if status == Status::Scheduled { TimeDelta::hours(1) } else { TimeDelta::zero() });
            rows.lease.push((status == Status::Sending).then(Uuid::now_v7));
        }
    }
    let mut connection = app.database.connect().await;
    let mut tx = sqlx::Connection::begin(&mut connection).await.unwrap();
    sqlx::query(
        "WITH recipient AS (
             INSERT INTO recipients (message_id, id, tenant_id, position, kind, address, status, finished_at)
             SELECT message, gen_random_uuid(), $6, position, 'to', 'a@b.test', stored,
                    CASE WHEN stored NOT IN ('queued', 'deferred') THEN now() END
             FROM unnest($1, $2, $3) AS u (message, position, stored)
             RETURNING message_id, id, tenant_id, position)
         INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at, lease)
         SELECT r.message_id, r.id, r.tenant_id, 0, now() + u.due_in, now() + u.due_in, u.lease
         FROM recipient r
         JOIN unnest($1, $2, $3, $4, $5) AS u (message, position, stored, due_in, lease)
              ON u.message = r.message_id AND u.position = r.position
         WHERE u.stored IN ('queued', 'deferred')",
    )
    .bind(&rows.message)
    .bind(&rows.position)
    .bind(&rows.stored)
    .bind(&rows.due_in)
    .bind(&rows.lease)
    .bind(TenantId::DEFAULT.0)
    .execute(&mut *tx)
    .await
    .unwrap();
    let filtered: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT id, message_status($1, id, now()) FROM unnest($2) WITH ORDINALITY AS u (id, n) ORDER BY n",
    )
    .bind(TenantId::DEFAULT.0)
    .bind(returned.iter().map(|(id, _)| *id).collect::<Vec<_>>())
    .fetch_all(&mut *tx)
    .await
    .unwrap();
    tx.rollback().await.unwrap();
    let different: Vec<_> = filtered.iter().zip(&returned).filter(|(sql, rust)| sql != rust).collect();
    assert!(filtered.len() == returned.len() && different.is_empty(), "{different:?}");
}

#[tokio::test]
async fn message_events_are_paged() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"to": (0..9).map(|n| format!("r{n}@example.test")).collect::<Vec<_>>()})).await;
    app.run_until_idle().await;
    let path = format!("/v1/messages/{}/events?limit=4", sent.id);
    let first = app.get(&path).await.body;
    let second = app.get(&format!("{path}&after={}", first["next"].as_str().unwrap())).await.body;
    let third = app.get(&format!("{path}&after={}", second["next"].as_str().unwrap())).await.body;
    let seqs =
        |page: &Value| page["data"].as_array().unwrap().iter().map(|e| e["seq"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!([seqs(&first), seqs(&second), seqs(&third)].concat(), (1..=10).collect::<Vec<_>>());
    assert_eq!((&third["has_more"], &third["next"]), (&json!(false), &json!(null)));
}

#[tokio::test]
async fn message_returns_the_submitted_fields() {
    let app = TestApp::start().await;
    let fields = json!({
        "to": [{"email": "bo@example.test", "name": "Bo Å"}], "cc": "Cy <cy@example.test>", "bcc": ["dee@example.test"],
        "reply_to": "help@acme.test", "tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"},
        "expires_at": app.clock.text_in(minutes(9)), "on_uncertain": "hold",
    });
    let sent = app.send(fields.clone()).await;
    let returned = app.message(&sent.id).await;
    assert_eq!(returned["from"], json!({"email": "billing@acme.test", "name": "Acme Billing"}));
    assert_eq!(returned["reply_to"], json!([{"email": "help@acme.test", "name": null}]));
    for field in ["tags", "metadata", "on_uncertain"] {
        assert_eq!(returned[field], fields[field], "{field}");
    }
    assert_eq!(returned["subject"], message(json!({}))["subject"]);
    let kinds: Vec<&Value> = returned["recipients"].as_array().unwrap().iter().map(|r| &r["kind"]).collect();
    assert_eq!(kinds, [&json!("to"), &json!("cc"), &json!("bcc")]);
    assert_eq!(returned["recipients"][0]["name"], "Bo Å");
    let mut listed = app.get("/v1/messages").await.body["data"][0].clone();
    listed["attachments"] = json!([]);
    assert_eq!(listed, returned, "the list returns the same fields, without attachments");
}

#[tokio::test]
async fn each_page_examines_a_bounded_number_of_messages() {
    let app = TestApp::start().await;
    app.send(json!({"subject": "old"})).await;
    app.run_until_idle().await;
    app.delete_first_event().await;
    app.sql(
        "INSERT INTO messages (tenant_id, id, content_id, created_at, stream, from_address, reply_to, subject, tags, metadata,
                               on_uncertain, size)
         SELECT tenant_id, uuid_floor(created_at + n * interval '1 ms'), content_id, created_at, stream, from_address,
                reply_to, 'new', tags, metadata, on_uncertain, size
         FROM messages, generate_series(1, 11000) n",
    )
    .await;
    let (mut pages, mut after, mut all) = (0, String::new(), Vec::new());
    loop {
        let page = app.get(&format!("/v1/messages?status=relayed{after}")).await;
        assert_eq!(page.status, 200, "{}", page.body);
        all.extend(subjects(&page.body).into_iter().map(str::to_owned));
        pages += 1;
        let Some(next) = page.body["next"].as_str() else { break };
        assert_eq!(page.body["has_more"], true);
        after = format!("&after={next}");
    }
    assert_eq!((pages, all), (3, vec!["old".to_owned()]));
    app.sql("DELETE FROM messages WHERE subject = 'new'").await;
}
