//! A suppressed address gets no messages, and `explain` says why.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Row as _};

use crate::support::app::TestApp;
use crate::support::client::{Answer, message};
use crate::support::clock::{hours, minutes};
use crate::support::postgres::statement;

const PATH: &str = "/v1/suppressions";

async fn suppress(app: &TestApp, entries: Value) {
    let answer = app.post(PATH, &entries).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
}

async fn explained(app: &TestApp, id: &str) -> Value {
    app.get(&format!("/v1/messages/{id}/explain")).await.body["recipients"][0].clone()
}

fn received(app: &TestApp) -> Vec<String> {
    app.smtp.mails().into_iter().flat_map(|mail| mail.to).collect()
}

#[tokio::test]
async fn who_is_suppressed_when_a_mail_is_accepted_gets_nothing() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ANN@example.test", "reason": "complaint"})).await;
    let mail = app.send(json!({"to": ["Ann@Example.test", "bo@example.test"]})).await;
    let statuses: Vec<&Value> = mail.body["recipients"].as_array().unwrap().iter().map(|one| &one["status"]).collect();
    assert_eq!((&mail.body["status"], statuses), (&json!("queued"), vec![&json!("suppressed"), &json!("queued")]));
    app.run_until_idle().await;
    assert_eq!(received(&app), ["bo@example.test"]);
    assert_eq!(app.states(&mail.id).await, ["suppressed", "relayed"]);
    assert_eq!(app.status(&mail.id).await, "partial");
    let events = app.event_list(&mail.id).await;
    let kinds: Vec<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message.accepted", "message.suppressed", "message.relayed"]);
    let told = &events[1]["data"];
    assert_eq!(
        (&told["recipient"], &told["attempt"], &told["duration_ms"]),
        (&json!("Ann@example.test"), &json!(null), &json!(null))
    );
    assert_eq!(
        told["response"]["text"],
        "ann@example.test is on the suppression list since 2026-11-23T12:00:00Z (complaint)"
    );
    let listed = app.get("/v1/messages?status=partial").await.body;
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_message_to_nobody_else_is_kept_and_explained() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ann@example.test", "note": "left the company"})).await;
    let send = || app.request(Method::POST, "/v1/messages").header("idempotency-key", "k").json(&message(json!({})));
    let first = Answer::to(send()).await;
    assert_eq!((first.status, &first.body["status"]), (202, &json!("suppressed")));
    let again = Answer::to(send()).await;
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
    assert_eq!(app.delete(&call).await.status, 204, "what is proposed helps: {call}");
    let ann = explained(&app, &id).await;
    assert!(ann["summary"].as_str().unwrap().contains("no longer on the list"), "{ann}");
    let retried = app.send(json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&retried.id).await, "relayed");
}

#[tokio::test]
async fn who_is_suppressed_between_accept_and_claim_gets_nothing() {
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
async fn who_is_suppressed_between_two_attempts_gets_no_other() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let mail = app.send(json!({})).await;
    app.run_until_idle().await;
    suppress(&app, json!("ann@example.test")).await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(
        (app.events(&mail.id).await, received(&app).len()),
        (vec!["accepted".into(), "deferred".into(), "suppressed".into()], 0)
    );
    let ann = app.recipient(&mail.id).await;
    assert_eq!((&ann["attempts"], &ann["response"]["code"]), (&json!(1), &json!(null)));
    let told = explained(&app, &mail.id).await["summary"].as_str().unwrap().to_owned();
    assert!(
        told.starts_with("It was not sent again at ") && told.contains("after 1 attempt; an earlier one may"),
        "{told}"
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
async fn a_scheduled_mail_is_looked_at_when_its_time_has_come() {
    let app = TestApp::start().await;
    let mail = app.send(json!({"scheduled_at": app.clock.text_in(hours(2))})).await;
    suppress(&app, json!({"address": "ann@example.test", "expires_at": app.clock.text_in(hours(3))})).await;
    let soon = app.send(json!({"scheduled_at": app.clock.text_in(minutes(179))})).await;
    let late = json!({"scheduled_at": app.clock.text_in(hours(3))});
    let plan = app.post("/v1/messages?dry_run=true", &message(late.clone())).await.body;
    let late = app.send(late).await;
    assert_eq!([&mail.body["status"], &late.body["status"]], ["scheduled"; 2]);
    assert_eq!((&soon.body["status"], &plan["recipients"][0]["suppressed"]), (&json!("suppressed"), &json!(false)));
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    assert_eq!(app.events(&mail.id).await, ["scheduled", "suppressed"]);
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(app.events(&late.id).await, ["scheduled", "relayed"], "the entry had expired by then");
}

#[tokio::test]
async fn an_administrator_can_send_all_the_same() {
    let app = TestApp::start().await;
    suppress(&app, json!({"address": "ann@example.test", "reason": "complaint"})).await;
    let body = message(json!({"ignore_suppression": true}));
    let shop = app.allowed(&[Scope::Send, Scope::Read]).await;
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
    let mail = app.send(json!({"ignore_suppression": true})).await;
    app.run_until_idle().await;
    assert_eq!((app.events(&mail.id).await, received(&app).len()), (vec!["accepted".to_owned(), "relayed".into()], 1));
    assert_eq!(app.message(&mail.id).await["ignore_suppression"], true);
}

#[tokio::test]
async fn a_dry_run_tells_who_would_get_nothing_and_why() {
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
    let shop = app.allowed(&[Scope::Send]).await;
    let ann = shop.post("/v1/messages?dry_run=true", &body).await.body["recipients"][0].clone();
    assert_eq!((&ann["suppressed"], &ann["suppression"]["note"]), (&json!(true), &json!(null)));
    assert!(!ann.to_string().contains("private"), "{ann}");
}

#[tokio::test]
async fn an_unknown_mailbox_is_suppressed_and_passing_trouble_is_not() {
    let app = TestApp::start().await;
    app.smtp.rcpt("Gone@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("full@example.test").replies(["552 5.2.2 mailbox full"]);
    app.smtp.rcpt("spam@example.test").replies(["550 5.7.1 we do not like it"]);
    let mail = app.send(json!({"to": ["Gone@example.test", "full@example.test", "spam@example.test"]})).await;
    app.run_until_idle().await;
    assert_eq!(app.states(&mail.id).await, ["bounced", "bounced", "bounced"]);
    let list = app.get(PATH).await.body["data"].as_array().unwrap().clone();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(
        (&list[0]["address"], &list[0]["reason"], &list[0]["stream"]),
        (&json!("gone@example.test"), &json!("hard_bounce"), &json!(null))
    );
    let recipient = app.message(&mail.id).await["recipients"][0]["id"].clone();
    assert_eq!((&list[0]["message_id"], &list[0]["recipient_id"]), (&json!(mail.id), &recipient));
    let again = app.send(json!({"to": "gone@EXAMPLE.test", "stream": "bulk"})).await;
    assert_eq!(again.body["status"], "suppressed");
    let explained = explained(&app, &again.id).await;
    assert!(explained["summary"].as_str().unwrap().contains(&mail.id), "{explained}");
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
        let mail = app.send(json!({"to": to})).await;
        app.run_until_idle().await;
        assert_eq!(app.status(&mail.id).await, "bounced");
        let list = app.get(PATH).await.body["data"].clone();
        let list: Vec<&Value> = list.as_array().unwrap().iter().map(|entry| &entry["address"]).collect();
        assert_eq!(json!(list), listed, "{to:?}");
    }
}

#[tokio::test]
async fn what_expires_suppresses_nobody() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["450 4.1.1 no such user, for now"]);
    let mail = app.send(json!({"expires_at": app.clock.text_in(minutes(1))})).await;
    app.run_until_idle().await;
    app.clock.advance(hours(1));
    app.run_until_idle().await;
    assert_eq!(
        (app.status(&mail.id).await.as_str(), app.get(PATH).await.body["data"].as_array().unwrap().len()),
        ("expired", 0)
    );
}

#[tokio::test]
async fn two_mails_that_bounce_at_one_time_make_one_entry() {
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

/// One statement for a whole group at accept and one for a whole claim; each address in it reads a few pages of the
/// index, however long the list is.
#[tokio::test]
async fn the_look_up_costs_the_same_however_long_the_list_is() {
    let app = TestApp::start().await;
    let mut connection = app.database.connect().await;
    let look_up = format!("SET plan_cache_mode = force_custom_plan; PREPARE look_up AS {}", statement("SELECT u.n AS"));
    sqlx::raw_sql(AssertSqlSafe(look_up)).execute(&mut connection).await.unwrap();
    let mut figures = Vec::new();
    for many in [100, 100_000] {
        let fill = "INSERT INTO suppressions (tenant_id, address, reason, created_at)
            SELECT '00000000-0000-0000-0000-000000000000', 'a' || n || '@example.test', 'manual', now()
            FROM generate_series(1, $1) n ON CONFLICT DO NOTHING";
        sqlx::query(fill).bind(many).execute(&mut connection).await.unwrap();
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
            assert!(!plan.to_string().contains("Seq Scan") || many == 100, "{plan}");
        }
        figures.push(pages_read);
    }
    assert!(figures[1] <= 256 * 9, "{figures:?}");
}
