//! API calls change an endpoint while events are posted: its state, cursor, retries and lease.

use postrider::clock::Clock as _;
use postrider::db::webhooks;
use reqwest::Method;
use serde_json::{Value, json};

use super::{URL, made, number, path, shown, start};
use crate::support::client::ApiResponse;
use crate::support::clock::{hours, minutes};

#[tokio::test]
async fn enabled_endpoint_continues_at_its_cursor() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    app.send(json!({})).await;
    app.sql(
        "UPDATE webhook_endpoints SET failing_since = '2026-11-20T00:00Z', failures = 7, last_error = 'answered 500',
             open_at = '2026-11-24T00:00Z', lease = gen_random_uuid()",
    )
    .await;
    let failing = shown(&app, &webhook).await;
    let fields = |webhook: &Value| ["state", "failures", "last_error", "behind"].map(|name| webhook[name].clone());
    assert_eq!(fields(&failing), [json!("failing"), json!(7), json!("answered 500"), json!(1)]);
    assert_eq!([&failing["failing_since"], &failing["open_at"]], ["2026-11-20T00:00:00Z", "2026-11-24T00:00:00Z"]);

    let disabled = app.patch(&path(&webhook), &json!({"disabled": true})).await.body;
    assert_eq!(fields(&disabled), [json!("disabled"), json!(7), json!("answered 500"), json!(1)]);
    assert!(disabled["disabled_reason"].as_str().unwrap().contains("through the API"), "{disabled}");
    app.clock.advance(hours(1));
    let again = app.patch(&path(&webhook), &json!({"disabled": true})).await.body;
    assert_eq!(again["disabled_at"], disabled["disabled_at"], "disabling again changes nothing");
    let refused = app.post(&format!("{}/test", path(&webhook)), &json!({})).await;
    assert_eq!(refused.problem(), (409, "webhook_disabled"));

    let enabled = app.patch(&path(&webhook), &json!({"disabled": false})).await.body;
    assert_eq!(fields(&enabled), [json!("active"), json!(0), json!(null), json!(1)]);
    for name in ["failing_since", "open_at", "disabled_at", "disabled_reason"] {
        assert_eq!(enabled[name], json!(null), "{name}");
    }
}

#[tokio::test]
async fn changes_that_a_worker_could_undo_end_its_lease() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    let (own, replay, rotate) = (path(&webhook), "/replay", "/rotate-secret");
    for (method, rest, body, ends_lease) in [
        (Method::PATCH, "", json!({"description": "x", "events": ["message.bounced"], "batch": 2, "url": URL}), false),
        (Method::POST, rotate, json!({}), false),
        (Method::PATCH, "", json!({"rate": null}), true),
        (Method::PATCH, "", json!({"url": "http://127.0.0.1:9/other"}), true),
        (Method::PATCH, "", json!({"disabled": true}), true),
        (Method::PATCH, "", json!({"disabled": false}), true),
        (Method::POST, replay, json!({"after_seq": 0}), true),
    ] {
        app.sql("UPDATE webhook_endpoints SET lease = gen_random_uuid()").await;
        let response = ApiResponse::to(app.request(method.clone(), &format!("{own}{rest}")).json(&body)).await;
        assert_eq!(response.status, 200, "{}", response.body);
        let left = number(&app, "SELECT count(lease) FROM webhook_endpoints").await;
        assert_eq!(left == 0, ends_lease, "{method} {rest} {body}");
    }
}

#[tokio::test]
async fn enabling_or_a_new_url_makes_retries_due() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    for (change, is_due) in
        [(json!({"disabled": false}), 1), (json!({"url": "http://127.0.0.1:9/fixed"}), 1), (json!({"batch": 2}), 0)]
    {
        app.sql(
            "DELETE FROM webhook_retries;
             INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
             SELECT id, tenant_id, 1, '{1}', 5, '2026-11-24T00:00Z' FROM webhook_endpoints",
        )
        .await;
        assert_eq!(app.patch(&path(&webhook), &change).await.status, 200);
        let due = "SELECT count(*) FROM webhook_retries WHERE due_at = '2026-11-23T12:00Z'";
        assert_eq!(number(&app, due).await, is_due, "{change}");
    }
}

#[tokio::test]
async fn new_rate_applies_at_once() {
    let app = start().await;
    let webhook = made(&app, json!({"rate": 0.00001})).await;
    app.sql("UPDATE webhook_endpoints SET open_at = '2026-11-24T00:00Z'").await;
    let open_at = async |change: Value| app.patch(&path(&webhook), &change).await.body["open_at"].clone();
    assert_eq!(open_at(json!({"batch": 2})).await, "2026-11-24T00:00:00Z");
    assert_eq!(open_at(json!({"rate": null})).await, json!(null));
    app.sql("UPDATE webhook_endpoints SET open_at = '2026-11-24T00:00Z', failures = 1").await;
    assert_eq!(open_at(json!({"rate": 5})).await, "2026-11-24T00:00:00Z", "the endpoint asked for this delay");
}

#[tokio::test]
async fn new_url_resets_the_failing_state() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    app.sql("UPDATE webhook_endpoints SET failing_since = '2026-11-20T00:00Z', open_at = '2026-11-24T00:00Z'").await;
    let changed = async |change: Value| app.patch(&path(&webhook), &change).await.body;
    assert_eq!(changed(json!({"description": "x", "url": URL})).await["state"], "failing");
    let moved = changed(json!({"url": "http://127.0.0.1:9/fixed"})).await;
    assert_eq!([&moved["state"], &moved["open_at"]], [&json!("active"), &json!(null)]);
}

#[tokio::test]
async fn replay_moves_the_cursor_back_and_never_forward() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    let replay = async |body: Value| app.post(&format!("{}/replay", path(&webhook)), &body).await;
    for _ in 0..5 {
        app.send(json!({})).await;
        app.clock.advance(minutes(1));
    }
    app.sql(
        "UPDATE webhook_endpoints SET cursor = 4;
         INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
         SELECT id, tenant_id, n, ARRAY[n], 1, now() FROM webhook_endpoints, generate_series(1, 3) n",
    )
    .await;
    let fields = |response: &ApiResponse| {
        assert_eq!(response.status, 200, "{}", response.body);
        ["cursor", "behind", "pending_retries"].map(|name| response.body[name].as_i64().unwrap())
    };
    assert_eq!(fields(&replay(json!({"after_seq": 5})).await), [4, 1, 3], "these events are posted anyway");
    // The time of the third event.
    let third = app.clock.text_in(minutes(-3));
    assert_eq!(
        fields(&replay(json!({ "since": third })).await),
        [2, 3, 2],
        "event 3 is the first one that is repeated"
    );
    assert_eq!(fields(&replay(json!({"after_seq": 1})).await), [1, 4, 1]);
    assert_eq!(fields(&replay(json!({"after_seq": 3})).await), [1, 4, 1], "never forward");
    assert_eq!(fields(&replay(json!({"since": "1999-12-31T00:00:00Z"})).await), [0, 5, 0]);
    assert_eq!(fields(&replay(json!({ "since": app.clock.text_in(hours(1)) })).await), [0, 5, 0]);

    for (body, pointer, code) in [
        (json!({}), "/after_seq", "required"),
        (json!({"after_seq": 6}), "/after_seq", "invalid_value"),
        (json!({"since": "yesterday"}), "/since", "invalid_timestamp"),
    ] {
        let response = replay(body.clone()).await;
        assert_eq!((response.status, response.faults()), (422, vec![(pointer, code)]), "{body}");
    }
}

#[tokio::test]
async fn test_creates_an_event_of_this_endpoint() {
    let app = start().await;
    let webhook = made(&app, json!({"events": ["message.bounced"]})).await;
    app.send(json!({})).await;
    let response = app.post(&format!("{}/test", path(&webhook)), &json!({})).await;
    assert_eq!((response.status, response.body), (202, json!({"seq": 2})));
    let events = app.get("/v1/events?type=webhook.test").await.body;
    let event = &events["data"][0];
    assert_eq!(
        (&event["seq"], &event["type"], &event["data"]["message_id"]),
        (&json!(2), &json!("webhook.test"), &json!(null))
    );
    let named: uuid::Uuid = sqlx::query_scalar("SELECT endpoint_id FROM events WHERE seq = 2")
        .fetch_one(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!(format!("wh_{}", named.simple()), webhook["id"].as_str().unwrap());
}

#[tokio::test]
async fn deliveries_are_listed_newest_first() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    let other = made(&app, json!({})).await;
    app.sql(
        "INSERT INTO webhook_attempts (id, tenant_id, endpoint_id, seq, events, attempt, size, status, answer, error,
                                       duration_ms, next_attempt_at)
         SELECT overlay(uuid_floor(timestamptz '2026-11-23T12:00:00.125Z' + n * interval '1 min')::text
                       placing '7' from 15)::uuid, tenant_id, id, 7, 2, n, 1234,
                CASE WHEN n = 3 THEN 204 ELSE 503 END, CASE WHEN n < 3 THEN 'busy' ELSE '' END,
                CASE WHEN n < 3 THEN 'answered 503' END, 41, CASE WHEN n < 3 THEN timestamptz '2026-11-23T13:00Z' END
         FROM (SELECT * FROM webhook_endpoints ORDER BY id LIMIT 1) e, generate_series(1, 3) n",
    )
    .await;
    // The order of the two ids is undefined: both endpoints were created in the same millisecond.
    let [webhook, other] =
        if webhook["id"].as_str() < other["id"].as_str() { [webhook, other] } else { [other, webhook] };
    let first = app.get(&format!("{}/deliveries?limit=2", path(&webhook))).await.body;
    let next = first["next"].as_str().unwrap();
    let second = app.get(&format!("{}/deliveries?limit=2&after={next}", path(&webhook))).await.body;
    let posts = [first["data"].as_array().unwrap().clone(), second["data"].as_array().unwrap().clone()].concat();
    assert_eq!(posts.iter().map(|post| post["attempt"].as_i64().unwrap()).collect::<Vec<_>>(), [3, 2, 1]);
    let header = format!("evt_{}_7_2", webhook["id"].as_str().unwrap().strip_prefix("wh_").unwrap());
    let mut expected = json!({
        "webhook_id": &header, "seq": 7, "events": 2, "attempt": 2, "size": 1234, "status": 503, "response_body": "busy",
        "error": "answered 503", "duration_ms": 41, "next_attempt_at": "2026-11-23T13:00:00Z",
        "started_at": "2026-11-23T12:02:00.125Z",
    });
    expected["id"] = posts[1]["id"].clone();
    assert!(posts[1]["id"].as_str().unwrap().starts_with("dlv_"));
    assert_eq!(posts[1], expected);
    assert_eq!(
        (&posts[0]["status"], &posts[0]["error"], &posts[0]["next_attempt_at"]),
        (&json!(204), &json!(null), &json!(null))
    );
    app.sql("UPDATE webhook_attempts SET events = 1").await;
    let single = app.get(&format!("{}/deliveries?limit=1", path(&webhook))).await.body;
    assert_eq!(single["data"][0]["webhook_id"], header.strip_suffix("_2").unwrap());
    assert_eq!(app.get(&format!("{}/deliveries", path(&other))).await.body["data"], json!([]));
}

#[tokio::test]
async fn endpoint_without_events_to_post_is_not_leased() {
    let app = start().await;
    let webhook = made(&app, json!({})).await;
    app.send(json!({})).await;
    let worker = uuid::Uuid::from_u128(10);
    app.sql(
        "INSERT INTO workers (id, host, pid, started_at, heartbeat_at)
         VALUES ('00000000-0000-0000-0000-00000000000a', 'other', 1, now(), now())",
    )
    .await;
    let leased = async || {
        let leased = webhooks::delivery::lease(&app.db, worker, &[], 10, app.clock.now()).await.unwrap();
        leased.into_iter().map(|endpoint| endpoint.id.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(leased().await, [webhook["id"].as_str().unwrap()]);
    // As after a restore, or after the events were deleted: the counter is ahead of the last event.
    app.sql(
        "UPDATE webhook_endpoints SET lease = NULL, cursor = 1;
         UPDATE event_counters SET last_seq = last_seq + 10000000000 WHERE last_seq > 0",
    )
    .await;
    assert_eq!(leased().await, [""; 0]);
    app.send(json!({})).await;
    assert_eq!(leased().await, [webhook["id"].as_str().unwrap()]);
    app.sql("UPDATE webhook_endpoints SET lease = NULL; DELETE FROM workers WHERE host = 'other'").await;
}
