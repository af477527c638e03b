//! Nothing is sent to a suppressed address, and `explain` gives the reason.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::app::TestApp;
use crate::support::client::{ApiResponse, message};
use crate::support::clock::{hours, minutes};
use crate::support::postgres::statement;

const PATH: &str = "/v1/suppressions";

async fn suppress(app: &TestApp, entries: Value) {
    let response = app.post(PATH, &entries).await;
    assert_eq!(response.status, 200, "{}", response.body);
}

async fn explained(app: &TestApp, id: &str) -> Value {
    app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone()
}

fn received(app: &TestApp) -> Vec<String> {
    app.smtp.messages().into_iter().flat_map(|message| message.to).collect()
}

#[tokio::test]
async fn recipient_suppressed_at_accept_is_not_sent_to() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ANN@example.test", "reason": "complaint"})).await;
    let sent = app.send(json!({"to": ["Ann@Example.test", "bo@example.test"]})).await;
    let statuses: Vec<&Value> = sent.body["recipients"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!((&sent.body["status"], statuses), (&json!("queued"), vec![&json!("suppressed"), &json!("queued")]));
    app.run_until_idle().await;
    assert_eq!(received(&app), ["bo@example.test"]);
    assert_eq!(app.states(&sent.id).await, ["suppressed", "relayed"]);
    assert_eq!(app.status(&sent.id).await, "partial");
    let events = app.event_list(&sent.id).await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message.accepted", "message.suppressed", "message.relayed"]);
    let data = &events[1]["data"];
    assert_eq!(
        (&data["recipient"], &data["attempt"], &data["duration_ms"]),
        (&json!("Ann@example.test"), &json!(null), &json!(null))
    );
    assert_eq!(
        data["response"]["text"],
        "ann@example.test is on the suppression list since 2026-11-23T12:00:00Z (complaint)"
    );
    let listed = app.get("/v1/messages?status=partial").await.body;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn fully_suppressed_message_is_stored_and_explained() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ann@example.test", "note": "left the company"})).await;
    let send = || app.request(Method::POST, "/v1/messages").header("idempotency-key", "k").json(&message(json!({})));
    let first = ApiResponse::to(send()).await;
    assert_eq!((first.status, &first.body["status"]), (202, &json!("suppressed")));
    let again = ApiResponse::to(send()).await;
    assert_eq!((&again.headers["idempotent-replayed"], &again.body), (&"true".parse().unwrap(), &first.body));
    let id = first.body["id"].as_str().unwrap().to_owned();
    app.run_until_idle().await;
    assert_eq!((app.smtp.connections(), app.status(&id).await.as_str()), (0, "suppressed"));
    assert_eq!(app.events(&id).await, ["accepted", "suppressed"]);
    assert_eq!(app.get("/v1/ledger").await.body["balanced"], true);

    let ann = explained(&app, &id).await;
    let summary = ann["summary"].as_str().unwrap();
    assert!(
        summary.contains("since 2026-11-23T12:00:00Z (manual)") && summary.contains("left the company"),
        "{summary}"
    );
    assert_eq!(ann["blocker"]["rule"], "suppression of all streams: manual");
    let call = ann["unblock"][0]["call"].as_str().unwrap().strip_prefix("DELETE ").unwrap().to_owned();
    assert_eq!(app.delete(&call).await.status, 204, "the suggested call succeeds: {call}");
    let ann = explained(&app, &id).await;
    assert!(ann["summary"].as_str().unwrap().contains("no longer on the list"), "{ann}");
    let retried = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&retried.id).await, "relayed");
}

#[tokio::test]
async fn recipient_suppressed_before_claim_is_not_sent_to() {
    let app = TestApp::start().await;
    app.post("/v1/streams/transactional/pause", &json!({})).await;
    let both = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    let alone = app.send(json!({"to": "ann@example.test"})).await;
    assert_eq!(alone.body["status"], "queued");
    app.run_until_idle().await;
    suppress(&app, json!({"address": "ann@example.test", "reason": "unsubscribe"})).await;
    app.post("/v1/streams/transactional/resume", &json!({})).await;
    app.run_until_idle().await;
    assert_eq!(received(&app), ["bo@example.test"]);
    assert_eq!(app.states(&both.id).await, ["suppressed", "relayed"]);
    let ann = app.recipient(&alone.id).await;
    assert_eq!(
        (&ann["status"], &ann["attempts"], &ann["last_attempt_at"]),
        (&json!("suppressed"), &json!(0), &json!(null))
    );
    assert!(ann["response"]["text"].as_str().unwrap().contains("(unsubscribe)"), "{ann}");
    assert_eq!(app.events(&alone.id).await, ["accepted", "suppressed"]);
    let event = app.event_list(&alone.id).await[1]["data"].clone();
    assert_eq!((&event["attempt"], &event["duration_ms"]), (&json!(null), &json!(null)));
}

#[tokio::test]
async fn recipient_suppressed_after_an_attempt_is_not_retried() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    suppress(&app, json!("ann@example.test")).await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(
        (app.events(&sent.id).await, received(&app).len()),
        (vec!["accepted".into(), "deferred".into(), "suppressed".into()], 0)
    );
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["attempts"], &ann["response"]["code"]), (&json!(1), &json!(null)));
    let summary = explained(&app, &sent.id).await["summary"].as_str().unwrap().to_owned();
    assert!(
        summary.starts_with("It was not sent again at ") && summary.contains("after 1 attempt; an earlier one may"),
        "{summary}"
    );
}

#[tokio::test]
async fn streams_have_separate_entries_and_expired_ones_are_ignored() {
    let app = TestApp::start().await;
    let until = app.clock.text_in(minutes(10));
    suppress(
        &app,
        json!([{"address": "ann@example.test", "stream": "bulk"}, {"address": "bo@example.test", "expires_at": until}]),
    )
    .await;
    let to_ann = async |stream: &str| app.send(json!({"stream": stream})).await.body["status"].clone();
    assert_eq!((to_ann("bulk").await, to_ann("transactional").await), (json!("suppressed"), json!("queued")));
    assert_eq!(app.send(json!({"to": "bo@example.test"})).await.body["status"], "suppressed");
    app.clock.advance(minutes(10));
    let bo = app.send(json!({"to": "bo@example.test"})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&bo.id).await, "relayed");
}

#[tokio::test]
async fn scheduled_message_is_checked_at_its_time() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    suppress(&app, json!({"address": "ann@example.test", "expires_at": app.clock.text_in(hours(3))})).await;
    let soon = app.send(json!({"scheduled_at": app.clock.text_in(minutes(179))})).await;
    let late = json!({"scheduled_at": app.clock.text_in(hours(3))});
    let plan = app.post("/v1/messages?dry_run=true", &message(late.clone())).await.body;
    let late = app.send(late).await;
    assert_eq!([&sent.body["status"], &late.body["status"]], ["scheduled"; 2]);
    assert_eq!((&soon.body["status"], &plan["recipients"][0]["suppressed"]), (&json!("suppressed"), &json!(false)));
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&sent.id).await, ["scheduled", "suppressed"]);
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(app.events(&late.id).await, ["scheduled", "relayed"], "the entry has expired by then");
}

#[tokio::test]
async fn admin_key_can_send_to_a_suppressed_address() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ann@example.test", "reason": "complaint"})).await;
    let body = message(json!({"ignore_suppression": true}));
    let shop = app.with_scopes(&[Scope::Send, Scope::Read]).await;
    for path in ["/v1/messages", "/v1/messages?dry_run=true"] {
        let refused = shop.post(path, &body).await;
        assert_eq!(
            (refused.problem(), refused.faults()),
            ((403, "forbidden"), vec![("/ignore_suppression", "forbidden")])
        );
    }
    assert_eq!(shop.send(json!({"ignore_suppression": false})).await.body["status"], "suppressed");
    assert_eq!(
        app.post("/v1/messages", &message(json!({"ignore_suppression": 1}))).await.faults(),
        [("/ignore_suppression", "invalid_type")]
    );

    let plan = app.post("/v1/messages?dry_run=true", &body).await.body["recipients"][0].clone();
    assert_eq!((&plan["suppressed"], &plan["suppression"]["reason"]), (&json!(false), &json!("complaint")));
    let sent = app.send(json!({"ignore_suppression": true})).await;
    app.run_until_idle().await;
    assert_eq!((app.events(&sent.id).await, received(&app).len()), (vec!["accepted".to_owned(), "relayed".into()], 1));
    assert_eq!(app.message(&sent.id).await["ignore_suppression"], true);
}

#[tokio::test]
async fn dry_run_reports_suppressed_recipients() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ann@example.test", "reason": "hard_bounce", "note": "private"})).await;
    let body = message(json!({"to": ["ann@example.test", "bo@example.test"]}));
    let plan = app.post("/v1/messages?dry_run=true", &body).await.body;
    let (ann, bo) = (&plan["recipients"][0], &plan["recipients"][1]);
    assert_eq!(
        (&ann["suppressed"], &ann["blocker"]["kind"], &ann["first_attempt"]),
        (&json!(true), &json!("ended"), &json!(null))
    );
    assert_eq!(
        (&ann["suppression"]["reason"], &ann["suppression"]["note"]),
        (&json!("hard_bounce"), &json!("private"))
    );
    assert!(ann["summary"].as_str().unwrap().contains("on the suppression list since"), "{ann}");
    assert_eq!(
        (&bo["suppressed"], &bo["suppression"], &bo["blocker"]["kind"]),
        (&json!(false), &json!(null), &json!("queued"))
    );
    let shop = app.with_scopes(&[Scope::Send]).await;
    let ann = shop.post("/v1/messages?dry_run=true", &body).await.body["recipients"][0].clone();
    assert_eq!((&ann["suppressed"], &ann["suppression"]["note"]), (&json!(true), &json!(null)));
    assert!(!ann.to_string().contains("private"), "{ann}");
}

#[tokio::test]
async fn only_unknown_mailbox_bounces_suppress_the_address() {
    let app = TestApp::start().await;
    app.smtp.rcpt("Gone@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("full@example.test").replies(["552 5.2.2 mailbox full"]);
    app.smtp.rcpt("spam@example.test").replies(["550 5.7.1 the message is refused"]);
    let sent = app.send(json!({"to": ["Gone@example.test", "full@example.test", "spam@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&sent.id).await, ["bounced", "bounced", "bounced"]);
    let list = app.get(PATH).await.body["data"].as_array().unwrap().clone();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["address"], &list[0]["reason"], &list[0]["stream"]),
        (&json!("gone@example.test"), &json!("hard_bounce"), &json!(null))
    );
    let recipient = app.message(&sent.id).await["recipients"][0]["id"].clone();
    assert_eq!((&list[0]["message_id"], &list[0]["recipient_id"]), (&json!(sent.id), &recipient));
    let again = app.send(json!({"to": "gone@EXAMPLE.test", "stream": "bulk"})).await;
    assert_eq!(again.body["status"], "suppressed");
    let explained = explained(&app, &again.id).await;
    assert!(explained["summary"].as_str().unwrap().contains(&sent.id), "{explained}");
}

#[tokio::test]
async fn refusal_after_data_suppresses_only_a_sole_recipient() {
    let app = TestApp::start().await;
    let unknown = "550 5.1.1 user unknown";
    app.smtp.dot().replies([unknown, unknown]);
    app.smtp.mail().replies(["250 ok", "250 ok", unknown]);
    for (to, listed) in [
        (vec!["ann@example.test", "bo@example.test", "cy@example.test"], json!([])),
        (vec!["dee@example.test"], json!(["dee@example.test"])),
        (vec!["eve@example.test"], json!(["dee@example.test"])),
    ] {
        let sent = app.send(json!({"to": to})).await;
        app.run_until_idle().await;
        assert_eq!(app.status(&sent.id).await, "bounced");
        let list = app.get(PATH).await.body["data"].clone();
        let list: Vec<&Value> = list.as_array().unwrap().iter().map(|entry| &entry["address"]).collect();
        assert_eq!(json!(list), listed, "{to:?}");
    }
}

#[tokio::test]
async fn expired_message_suppresses_no_address() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["450 4.1.1 no such user, for now"]);
    let sent = app.send(json!({"expires_at": app.clock.text_in(minutes(1))})).await;
    app.run_until_idle().await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(
        (app.status(&sent.id).await.as_str(), app.get(PATH).await.body["data"].as_array().unwrap().len()),
        ("expired", 0)
    );
}

#[tokio::test]
async fn concurrent_bounces_create_one_entry() {
    let app = TestApp::start().await;
    app.smtp.rcpt("gone@example.test").replies(["550 5.1.1 no", "550 5.1.1 no", "550 5.1.1 no", "550 5.1.1 no"]);
    for _ in 0..4 {
        app.send(json!({"to": "gone@example.test"})).await;
    }
    let (first, second) = (app.start_working(), app.another_worker().await);
    second.drain().await.unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(app.get(PATH).await.body["data"].as_array().unwrap().len(), 1);
    second.stop().await;
}

/// The same statement checks all addresses of a group of accepted messages or of a claim. For each address it reads a
/// few index pages, regardless of the length of the list.
#[tokio::test]
async fn lookup_cost_does_not_depend_on_list_length() {
    let app = TestApp::start().await;
    let mut connection = app.database.connect().await;
    let look_up = format!(
        "SET plan_cache_mode = force_custom_plan; PREPARE look_up AS {}",
        statement(r#"SELECT u.n AS "n!", s.address"#)
    );
    sqlx::raw_sql(AssertSqlSafe(look_up)).execute(&mut connection).await.unwrap();
    let mut figures = Vec::new();
    for length in [100, 100_000] {
        let fill = "INSERT INTO suppressions (tenant_id, address, reason, created_at)
            SELECT '00000000-0000-0000-0000-000000000000', 'a' || n || '@example.test', 'manual', now()
            FROM generate_series(1, $1) n ON CONFLICT DO NOTHING";
        sqlx::query(fill).bind(length).execute(&mut connection).await.unwrap();
        // Without ANALYZE, so that the plan does not depend on statistics.
        let list = |value: fn(i32) -> String| (1..=256).map(value).collect::<Vec<String>>().join(", ");
        let explain = format!(
            "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE look_up (ARRAY[{}]::uuid[], ARRAY[{}], ARRAY[{}], ARRAY[{}])",
            list(|_| "'00000000-0000-0000-0000-000000000000'".into()),
            list(|n| format!("'a{}@example.test'", 2 * n)),
            list(|_| "'transactional'".into()),
            list(|_| "now()".into())
        );
        let mut pages_read = 0;
        for _ in 0..2 {
            let plan: Value =
                sqlx::raw_sql(AssertSqlSafe(explain.clone())).fetch_one(&mut connection).await.unwrap().get(0);
            let plan = &plan[0]["Plan"];
            pages_read = plan["Shared Hit Blocks"].as_i64().unwrap() + plan["Shared Read Blocks"].as_i64().unwrap();
            assert!(!plan.to_string().contains("Seq Scan") || length == 100, "{plan}");
        }
        figures.push(pages_read);
    }
    assert!(figures[1] <= 256 * 9, "{figures:?}");
}
