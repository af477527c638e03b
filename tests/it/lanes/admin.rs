//! The API calls for lanes and streams.

use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::clock::{hours, minutes, seconds};
use crate::support::dns::DnsServer;

async fn lanes(app: &TestApp, query: &str) -> Vec<Value> {
    let response = app.get(&format!("/v1/lanes?{query}")).await;
    assert_eq!(response.status, 200, "{query}: {}", response.body);
    response.body["data"].as_array().unwrap().clone()
}

async fn put(app: &TestApp, body: Value) -> ApiResponse {
    ApiResponse::to(app.request(Method::PUT, "/v1/lanes").json(&body)).await
}

fn domains(lanes: &[Value]) -> Vec<&str> {
    lanes.iter().map(|lane| lane["domain"].as_str().unwrap()).collect()
}

/// Starts direct delivery, with one mail server for four domains.
async fn direct() -> (DnsServer, TestApp) {
    let dns = DnsServer::start().await;
    for name in ["a.test", "b.test", "c.test", "d.test"] {
        dns.add_address(name, "127.0.0.1");
    }
    let app = TestApp::builder().direct(&dns).start().await;
    (dns, app)
}

#[tokio::test]
async fn lane_shows_its_waiting_recipients() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.0 later"]);
    app.send(json!({})).await;
    app.run_until_idle().await;
    let due = app.clock.text_in(minutes(0));
    app.send(json!({"to": ["bo@example.test", "cy@example.test"]})).await;
    app.send(json!({"scheduled_at": app.clock.text_in(hours(1))})).await;

    let all = lanes(&app, "").await;
    assert_eq!(all.len(), 1, "a relay has one lane per stream");
    let lane = &all[0];
    assert_eq!(
        (&lane["stream"], &lane["route"], &lane["domain"]),
        (&json!("transactional"), &json!("relay"), &json!("*"))
    );
    let reason = "Not limited. Due messages are sent as soon as workers are free.";
    assert_eq!((&lane["state"], &lane["reason"]), (&json!("open"), &json!(reason)));
    assert_eq!(lane["waiting"], json!({"number": 4, "is_more": false}));
    assert_eq!(lane["due"], json!({"number": 2, "is_more": false}));
    assert_eq!((&lane["in_flight"], &lane["held"]["number"]), (&json!(0), &json!(0)));
    let oldest: chrono::DateTime<chrono::Utc> = lane["oldest_due_at"].as_str().unwrap().parse().unwrap();
    assert_eq!(oldest, due.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    assert_eq!(
        lane["limits"]["connections"],
        json!({"own": null, "effective": 16, "from": "configuration", "scope": "each worker"})
    );
    assert_eq!(lane["limits"]["rate"], json!({"own": null, "effective": null, "from": null}));
    let path = format!("/v1/lanes/{}", lane["id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.body, *lane);
}

#[tokio::test]
async fn leased_recipients_are_in_flight() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let lane = lanes(&app, "").await.remove(0);
    assert_eq!((&lane["in_flight"], &lane["waiting"]["number"]), (&json!(1), &json!(0)));
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(lanes(&app, "").await[0]["in_flight"], 0);
}

#[tokio::test]
async fn count_of_a_long_queue_is_limited() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.clock.advance(minutes(1));
    let last = app.send(json!({})).await;
    app.sql(
        "INSERT INTO queue (message_id, recipient_id, tenant_id, lane_id, due_at, first_due_at)
         SELECT gen_random_uuid(), gen_random_uuid(), tenant_id, lane_id, due_at, first_due_at
         FROM (SELECT * FROM queue ORDER BY due_at LIMIT 1) first, generate_series(1, 10050)",
    )
    .await;
    let lane = lanes(&app, "").await.remove(0);
    let many = json!({"number": 10_000, "is_more": true});
    assert_eq!((&lane["waiting"], &lane["due"], &lane["in_flight"]), (&many, &many, &json!(null)));
    let explained = app.get(&format!("/v1/messages/{}/explain", last.id)).await.body;
    assert_eq!(explained["recipients"][0]["ahead"], many);
    app.sql("DELETE FROM queue q WHERE NOT EXISTS (SELECT FROM messages m WHERE m.id = q.message_id)").await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn paused_lane_keeps_its_messages_until_it_is_resumed() {
    let (_dns, app) = direct().await;
    let message = app.send(json!({"to": ["ann@a.test", "bo@b.test"]})).await;
    let a = lanes(&app, "domain=A.test").await.remove(0);
    let path = format!("/v1/lanes/{}", a["id"].as_str().unwrap());
    let paused = app.post(&format!("{path}/pause"), &json!({"reason": "the postmaster asked us to"})).await;
    assert_eq!((paused.status, &paused.body["state"]), (200, &json!("paused")));
    assert_eq!(paused.body["paused"]["reason"], "the postmaster asked us to");
    assert_eq!(paused.body["reason"], "Paused since 2026-11-23T12:00:00Z (the postmaster asked us to).");

    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["queued", "delivered"]);
    let again = app.post(&format!("{path}/pause"), &json!({})).await.body;
    assert_eq!((&again["paused"]["at"], &again["paused"]["reason"]), (&paused.body["paused"]["at"], &json!(null)));

    let resumed = app.post(&format!("{path}/resume"), &json!({})).await.body;
    assert_eq!((&resumed["state"], &resumed["paused"]), (&json!("open"), &json!(null)));
    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["delivered", "delivered"]);
}

#[tokio::test]
async fn lane_limits_can_be_set_changed_and_removed() {
    let app = TestApp::start().await;
    let body = json!({"stream": "bulk", "route": "relay", "domain": "Bücher.test", "connections": 2, "rate": 0.5});
    let created = put(&app, body).await;
    assert_eq!((created.status, &created.body["domain"]), (201, &json!("xn--bcher-kva.test")));
    let path = format!("/v1/lanes/{}", created.body["id"].as_str().unwrap());
    assert_eq!(created.headers["location"], path);
    let limits = &created.body["limits"];
    assert_eq!(limits["connections"], json!({"own": 2, "effective": 2, "from": "lane", "scope": "all workers"}));
    assert_eq!(limits["rate"], json!({"own": 0.5, "effective": 0.5, "from": "lane"}));
    assert_eq!(limits["messages_per_connection"]["from"], "configuration");

    let changed = app.patch(&path, &json!({"connections": null, "messages_per_connection": 7})).await.body;
    let own = |name: &str| changed["limits"][name]["own"].clone();
    assert_eq!((own("connections"), own("rate"), own("messages_per_connection")), (json!(null), json!(0.5), json!(7)));

    let again = put(&app, json!({"stream": "bulk", "route": "relay", "domain": "bücher.test", "connections": 3})).await;
    assert_eq!((again.status, &again.body["id"]), (200, &created.body["id"]));
    assert_eq!(
        (&again.body["limits"]["connections"]["own"], &again.body["limits"]["rate"]["own"]),
        (&json!(3), &json!(null))
    );
}

#[tokio::test]
async fn invalid_lane_is_refused_with_all_faults() {
    let app = TestApp::start().await;
    let body = json!({"stream": "none", "route": "mx", "domain": "a b", "connections": 0, "rate": "fast", "x": 1});
    let response = put(&app, body).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected = [
        ("/connections", "invalid_value"),
        ("/domain", "invalid_value"),
        ("/rate", "invalid_type"),
        ("/route", "invalid_value"),
        ("/stream", "unknown_stream"),
        ("/x", "unknown_field"),
    ];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
    for id in ["lane_1", "1", "lane_-1", "lane_99999999999999999999", "%00"] {
        assert_eq!(app.get(&format!("/v1/lanes/{id}")).await.status, 404, "{id}");
        assert_eq!(app.post(&format!("/v1/lanes/{id}/reset"), &json!({})).await.status, 404, "{id}");
    }
    for query in ["waiting=perhaps", "state=gone", "route=smtp", "after=x", "after=open.5", "limit=0", "lane=1"] {
        assert_eq!(app.get(&format!("/v1/lanes?{query}")).await.status, 422, "{query}");
    }
    assert_eq!(app.get("/v1/lanes?domain=a%20b").await.body["data"], json!([]));
}

#[tokio::test]
async fn lanes_with_problems_are_listed_first() {
    let (_dns, app) = direct().await;
    app.send(json!({"to": ["x@a.test", "x@b.test", "x@c.test", "x@d.test"]})).await;
    app.send(json!({"to": "x@a.test", "stream": "bulk"})).await;
    // The values that a worker writes if a server cannot be reached, and if a server throttles.
    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, block_reply = 'connection refused',
             open_at = '2026-11-23T12:02:00Z' WHERE domain = 'c.test';
         UPDATE lanes SET learned_rate = 2, learned_ceiling = 8, learned_at = '2026-11-23T11:59:00Z',
             learned_reply = '4.7.0 too fast' WHERE domain = 'd.test'",
    )
    .await;
    app.post("/v1/streams/bulk/pause", &json!({})).await;

    let (mut listed, mut next) = (Vec::new(), String::new());
    loop {
        let page = app.get(&format!("/v1/lanes?limit=2{next}")).await.body;
        listed.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&after={cursor}");
    }
    assert_eq!(domains(&listed), ["c.test", "d.test", "a.test", "a.test", "b.test"]);
    let states: Vec<&Value> = listed.iter().map(|lane| &lane["state"]).collect();
    assert_eq!(states, ["blocked", "throttled", "paused", "open", "open"]);
    assert_eq!(listed[2]["paused"]["what"], "stream");
    assert_eq!(
        listed[0]["reason"],
        "The domain c.test cannot be reached, since 2026-11-23T11:00:00Z (3 tries): “connection refused”. The next probe is due at \
         2026-11-23T12:02:00Z."
    );
    assert_eq!(listed[1]["limits"]["rate"], json!({"own": null, "effective": 2.0, "from": "learned"}));

    for (query, expected) in [
        ("state=blocked", vec!["c.test"]),
        ("state=throttled", vec!["d.test"]),
        ("state=paused", vec!["a.test"]),
        ("state=open", vec!["a.test", "b.test"]),
        ("stream=bulk", vec!["a.test"]),
        ("domain=a.test", vec!["a.test", "a.test"]),
        ("route=relay", vec![]),
        ("waiting=false", vec![]),
        ("route=mx&domain=b.test&stream=transactional&state=open", vec!["b.test"]),
    ] {
        assert_eq!(domains(&lanes(&app, query).await), expected, "{query}");
    }
}

#[tokio::test]
async fn reset_lane_tries_its_destination_at_once() {
    let (_dns, app) = direct().await;
    let message = app.send(json!({"to": "x@a.test"})).await;
    app.sql(
        "UPDATE lanes SET blocked_since = '2026-11-23T11:00:00Z', block_failures = 3, open_at = '2026-11-23T12:04:00Z',
             learned_rate = 2, learned_ceiling = 8, learned_at = '2026-11-23T11:00:00Z'",
    )
    .await;
    let lane = lanes(&app, "").await.remove(0);
    let path = format!("/v1/lanes/{}", lane["id"].as_str().unwrap());
    app.post(&format!("{path}/pause"), &json!({})).await;
    let reset = app.post(&format!("{path}/reset"), &json!({})).await.body;
    assert_eq!((&reset["blocked"], &reset["learned"], &reset["open_at"]), (&json!(null), &json!(null), &json!(null)));
    assert_eq!(reset["state"], "paused", "a reset does not resume the lane");
    app.post(&format!("{path}/resume"), &json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&message.id).await, "delivered");
}

#[tokio::test]
async fn stream_can_be_created_changed_and_used() {
    let app = TestApp::start().await;
    assert_eq!(app.get("/v1/streams").await.body["data"][0]["name"], "transactional");
    let created = app
        .post(
            "/v1/streams",
            &json!({"name": "news", "priority": 70, "rate": 20, "retry_schedule": ["10m", 7200], "retry_window": "1d"}),
        )
        .await;
    assert_eq!((created.status, &created.headers["location"]), (201, &"/v1/streams/news".parse().unwrap()));
    assert_eq!((&created.body["weight"], &created.body["rate"]), (&json!(10), &json!(20.0)));
    assert_eq!(created.body["retry_schedule"], json!(["10m", "2h"]));
    assert_eq!(
        created.body["effective"],
        json!({"retry_schedule": ["10m", "2h"], "retry_window": "1d", "greylist": "5m"}),
        "other values are as configured"
    );
    app.send(json!({"stream": "news"})).await;
    assert_eq!(lanes(&app, "stream=news").await[0]["limits"]["rate"]["from"], "stream");

    let changed = app.patch("/v1/streams/news", &json!({"priority": 5, "rate": null, "retry_window": null})).await;
    assert_eq!((changed.status, &changed.body["rate"], &changed.body["priority"]), (200, &json!(null), &json!(5)));
    assert_eq!(
        (&changed.body["retry_window"], &changed.body["effective"]["retry_window"]),
        (&json!(null), &json!("3d"))
    );
    assert_eq!(changed.body["retry_schedule"], json!(["10m", "2h"]), "missing fields are not changed");
    assert_eq!(
        lanes(&app, "stream=news").await[0]["priority"],
        5,
        "the new priority applies to waiting recipients too"
    );
    let written = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM lanes WHERE priority = 5");
    let written = written.fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(written, 0, "no lane is written");
    assert_eq!(app.get("/v1/streams/news").await.body, changed.body);

    let again = app.post("/v1/streams", &json!({"name": "news"})).await;
    assert_eq!(again.problem(), (409, "stream_exists"));
    app.run_until_idle().await;
}

#[tokio::test]
async fn lanes_can_be_filtered_by_waiting_recipients() {
    let (_dns, app) = direct().await;
    app.send(json!({"to": ["x@a.test", "x@b.test"]})).await;
    app.run_until_idle().await;
    app.send(json!({"to": "x@b.test", "scheduled_at": app.clock.text_in(hours(1))})).await;
    app.send(json!({"to": "x@c.test"})).await;
    assert_eq!(domains(&lanes(&app, "waiting=true").await), ["b.test", "c.test"]);
    assert_eq!(domains(&lanes(&app, "waiting=false").await), ["a.test"]);
}

#[tokio::test]
async fn lane_is_throttled_while_messages_wait_for_its_rate() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.send(json!({})).await;
    let path = format!("/v1/lanes/{}", lanes(&app, "").await[0]["id"].as_str().unwrap());
    let state = async || app.get(&path).await.body["state"].as_str().unwrap().to_owned();
    let limited = app.patch(&path, &json!({"rate": 0.1})).await.body;
    assert_eq!((&limited["state"], &limited["open_at"]), (&json!("throttled"), &json!(null)), "it may send now");
    app.run_until_idle().await;
    assert_eq!(state().await, "throttled", "one message is sent, one waits");
    app.clock.advance(minutes(1));
    app.run_until_idle().await;
    assert_eq!(state().await, "open", "no message waits");
}

#[tokio::test]
async fn changing_a_rate_allows_no_extra_messages() {
    let app = TestApp::start().await;
    for stream in ["transactional", "transactional", "bulk", "bulk"] {
        app.send(json!({"stream": stream})).await;
    }
    let limits = json!({"stream": "transactional", "route": "relay", "domain": "*", "rate": 0.01});
    let path = format!("/v1/lanes/{}", put(&app, limits.clone()).await.body["id"].as_str().unwrap());
    app.patch("/v1/streams/bulk", &json!({"rate": 0.01})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2, "one of each stream");
    let opens = app.get(&path).await.body["open_at"].clone();
    assert_eq!(opens, "2026-11-23T12:01:40Z");

    put(&app, limits).await;
    app.patch(&path, &json!({"rate": 0.01})).await;
    app.patch("/v1/streams/bulk", &json!({"rate": 0.01, "priority": 40})).await;
    let reset = app.post(&format!("{path}/reset"), &json!({})).await.body;
    assert_eq!(reset["open_at"], opens, "there was no learned state to reset");
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);

    // Another rate allows no extra messages either: the next slot is calculated from now.
    app.patch(&path, &json!({"rate": 0.5})).await;
    app.patch("/v1/streams/bulk", &json!({"rate": 0.5})).await;
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 2);
    app.clock.advance(seconds(2));
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 4);
}

#[tokio::test]
async fn lane_actions_do_not_count_the_queue() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let lane = lanes(&app, "").await.remove(0);
    let path = format!("/v1/lanes/{}", lane["id"].as_str().unwrap());
    for call in ["pause", "resume", "reset"] {
        let response = app.post(&format!("{path}/{call}"), &json!({})).await.body;
        assert_eq!(
            (&response["id"], response.get("waiting"), response.get("in_flight")),
            (&lane["id"], None, None),
            "{call}"
        );
    }
    app.run_until_idle().await;
}

#[tokio::test]
async fn invalid_stream_is_refused_with_all_faults() {
    let app = TestApp::start().await;
    let body = json!({"name": "a/b", "priority": 101, "rate": 0, "retry_schedule": ["soon"], "colour": "red"});
    let response = app.post("/v1/streams", &body).await;
    let mut faults = response.faults();
    faults.sort_unstable();
    let expected = [
        ("/colour", "unknown_field"),
        ("/name", "invalid_value"),
        ("/priority", "invalid_value"),
        ("/rate", "invalid_value"),
        ("/retry_schedule/0", "invalid_value"),
    ];
    assert_eq!((response.status, faults), (422, expected.to_vec()));
    for name in ["none", "%00", "%FF", "a%20b", "%F0%9F%90%8E"] {
        assert_eq!(app.post(&format!("/v1/streams/{name}/pause"), &json!({})).await.status, 404, "{name}");
        assert_eq!(app.get(&format!("/v1/streams/{name}")).await.status, 404, "{name}");
        assert_eq!(app.patch(&format!("/v1/streams/{name}"), &json!({"weight": 1})).await.status, 404, "{name}");
    }
    assert_eq!(app.patch("/v1/streams/bulk", &json!({"name": "b"})).await.faults(), [("/name", "unknown_field")]);
    let null = app.patch("/v1/streams/bulk", &json!({"priority": null})).await;
    assert_eq!((null.status, null.faults()), (422, vec![("/priority", "invalid_type")]));
    assert_eq!(app.post("/v1/streams/bulk/pause", &json!({"reason": 5})).await.faults(), [("/reason", "invalid_type")]);
}

#[tokio::test]
async fn paused_stream_accepts_and_keeps_messages() {
    let app = TestApp::start().await;
    let paused = app.post("/v1/streams/bulk/pause", &json!({"reason": "quarter's end"})).await;
    assert_eq!((paused.status, &paused.body["paused"]["reason"]), (200, &json!("quarter's end")));
    let (bulk, other) = (app.send(json!({"stream": "bulk"})).await, app.send(json!({})).await);
    app.run_until_idle().await;
    assert_eq!((app.status(&bulk.id).await.as_str(), app.status(&other.id).await.as_str()), ("queued", "relayed"));
    app.post("/v1/streams/bulk/resume", &json!({})).await;
    app.run_until_idle().await;
    assert_eq!(app.status(&bulk.id).await, "relayed");
}

#[tokio::test]
async fn read_keys_may_list_lanes_and_only_admin_keys_change_them() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let lane = lanes(&app, "").await.remove(0)["id"].as_str().unwrap().to_owned();
    let calls = [
        (Method::GET, "/v1/lanes".to_owned(), Scope::Metadata),
        (Method::GET, format!("/v1/lanes/{lane}"), Scope::Metadata),
        (Method::GET, "/v1/streams".into(), Scope::Metadata),
        (Method::GET, "/v1/streams/bulk".into(), Scope::Metadata),
        (Method::GET, "/v1/ledger".into(), Scope::Metadata),
        (Method::PUT, "/v1/lanes".into(), Scope::Admin),
        (Method::PATCH, format!("/v1/lanes/{lane}"), Scope::Admin),
        (Method::POST, format!("/v1/lanes/{lane}/pause"), Scope::Admin),
        (Method::POST, format!("/v1/lanes/{lane}/resume"), Scope::Admin),
        (Method::POST, format!("/v1/lanes/{lane}/reset"), Scope::Admin),
        (Method::POST, "/v1/streams".into(), Scope::Admin),
        (Method::PATCH, "/v1/streams/bulk".into(), Scope::Admin),
        (Method::POST, "/v1/streams/bulk/pause".into(), Scope::Admin),
        (Method::POST, "/v1/streams/bulk/resume".into(), Scope::Admin),
    ];
    for scope in Scope::ALL {
        let api = app.with_scopes(&[scope]).await;
        for (method, path, needed) in &calls {
            let response = ApiResponse::to(api.request(method.clone(), path).json(&json!({}))).await;
            let allowed = needed.granted_by().contains(&scope);
            assert_eq!(response.status != 403, allowed, "{scope:?}: {method} {path} is {}", response.status);
        }
    }
}
