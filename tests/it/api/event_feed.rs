//! `GET /v1/events` by pages, by long poll and as a stream: no event is missed or repeated.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse};

fn seqs(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["seq"].as_i64().unwrap()).collect()
}

fn data(response: &ApiResponse) -> Vec<Value> {
    assert_eq!(response.status, 200, "{}", response.body);
    response.body["data"].as_array().unwrap().clone()
}

/// Reads all events so far, page by page.
async fn read_all(api: &Api, query: &str) -> Vec<Value> {
    let (mut all, mut after) = (Vec::new(), "0".to_owned());
    loop {
        let page = api.get(&format!("/v1/events?after={after}&{query}")).await;
        all.extend(data(&page));
        page.body["next"].as_str().unwrap().clone_into(&mut after);
        if page.body["has_more"] == json!(false) {
            return all;
        }
    }
}

#[tokio::test]
async fn pages_return_each_event_once_and_in_order() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    let ann = app.send(json!({"tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"}})).await;
    app.send(json!({"to": ["bo@example.test"]})).await;
    app.run_until_idle().await;

    let all = read_all(&app, "limit=1").await;
    assert_eq!(seqs(&all), [1, 2, 3, 4]);
    let first = &all[0];
    assert_eq!((&first["type"], &first["data"]["message_id"]), (&json!("message.accepted"), &json!(ann.id)));
    assert_eq!(
        (&first["data"]["metadata"], &first["data"]["tags"][0]["value"]),
        (&json!({"order": "42"}), &json!("invoice"))
    );
    let bounced = read_all(&app, "type=message.bounced,message.expired").await;
    assert_eq!(bounced.len(), 1);
    assert_eq!(bounced[0]["data"]["recipient"], "bo@example.test");
    assert_eq!(bounced[0]["data"]["response"], json!({"code": 550, "enhanced": "5.1.1", "text": "no such user"}));
    assert_eq!(bounced[0]["data"]["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "smtp"}));
    let ann_events = read_all(&app, &format!("message_id={}", ann.id)).await;
    assert_eq!(ann_events, app.event_list(&ann.id).await, "both endpoints return the same events");

    for query in ["after=4", "after=latest", "after=2&type=message.complained"] {
        let end = app.get(&format!("/v1/events?{query}")).await;
        assert_eq!(
            (data(&end).len(), &end.body["next"], &end.body["has_more"]),
            (0, &json!("4"), &json!(false)),
            "{query}"
        );
    }
}

#[tokio::test]
async fn invalid_feed_parameters_are_refused() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    for (query, pointer) in [
        ("after=2", "after"),
        ("after=-1", "after"),
        ("after=x", "after"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("wait=56", "wait"),
        ("type=message.lost", "type"),
        ("type=message.bounced,", "type"),
        ("message_id=rcp_1", "message_id"),
    ] {
        let response = app.get(&format!("/v1/events?{query}")).await;
        assert!(
            response.status == 422 && response.faults().contains(&(pointer, "invalid_value")),
            "{query}: {response:?}"
        );
    }
    let stream = app.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let response = ApiResponse::to(stream.header("last-event-id", "first")).await;
    assert!(response.faults().contains(&("Last-Event-ID", "invalid_value")), "{response:?}");
    let sender = app.with_scopes(&[postrider::domain::key::Scope::Send]).await;
    assert_eq!(sender.get("/v1/events").await.status, 403);
}

#[tokio::test]
async fn rare_event_type_is_found_over_several_pages() {
    let app = TestApp::start().await;
    let before = app.send(json!({})).await;
    app.sql(
        "INSERT INTO events (tenant_id, seq, recorded_at, type)
         SELECT '00000000-0000-0000-0000-000000000000', n, now(), 'message.accepted' FROM generate_series(2, 25000) n;
         UPDATE event_counters SET last_seq = 25000",
    )
    .await;
    app.post(&format!("/v1/messages/{}/cancel", before.id), &json!({})).await;
    let first = app.get("/v1/events?type=message.canceled").await;
    assert_eq!((data(&first).len(), &first.body["next"]), (0, &json!("10000")));
    assert_eq!(first.body["has_more"], true);
    assert_eq!(seqs(&read_all(&app, "type=message.canceled").await), [25_001]);
}

#[tokio::test]
async fn long_poll_returns_events_of_another_process() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let [any, bounced] = ["wait=55", "wait=55&type=message.bounced"].map(|query| {
        let (api, query) = (app.api().clone(), query.to_owned());
        tokio::spawn(async move { api.get(&format!("/v1/events?{query}")).await })
    });
    app.smtp.rcpt("ann@example.test").replies(["550 5.1.1 no such user"]);
    other_api.send(json!({})).await;
    assert_eq!(seqs(&data(&any.await.unwrap())), [1]);
    app.run_until_idle().await;
    let bounced = bounced.await.unwrap();
    assert_eq!((seqs(&data(&bounced)), &bounced.body["next"]), (vec![2], &json!("2")));
    other.stop().await;
}

#[tokio::test]
async fn event_stream_ends_when_the_service_stops() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    app.send(json!({})).await;
    let mut stream = Stream::open(&other_api, None).await;
    assert_eq!(stream.next().await.unwrap().0, "1");
    let waiting = tokio::spawn(async move { other_api.get("/v1/events?after=1&wait=55").await });
    // Both requests return the new event; the stream stays open.
    app.send(json!({})).await;
    assert_eq!(stream.next().await.unwrap().0, "2");
    assert_eq!(seqs(&data(&waiting.await.unwrap())), [2]);
    other.stop().await;
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn event_stream_resumes_after_last_event_id() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut stream = Stream::open(&app, None).await;
    let (id, event) = stream.next().await.unwrap();
    assert_eq!((id.as_str(), &event), ("1", &app.get("/v1/events").await.body["data"][0]));
    drop(stream);
    app.run_until_idle().await;
    let mut stream = Stream::open(&app, Some("1")).await;
    assert_eq!(stream.next().await.unwrap().1["type"], "message.relayed");
    app.send(json!({})).await;
    assert_eq!(stream.next().await.unwrap().0, "3", "a new event arrives on the open stream");
}

#[tokio::test]
async fn event_stream_ends_where_events_were_deleted() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut stream = Stream::open(&app, None).await;
    assert_eq!(stream.next().await.unwrap().0, "1");
    app.sql(
        "DELETE FROM events; UPDATE event_counters SET last_seq = 6;
         INSERT INTO deleted_events (tenant_id, up_to) SELECT tenant_id, last_seq FROM event_counters",
    )
    .await;
    app.send(json!({})).await;
    assert_eq!(stream.next().await, None, "event 7 would hide that 2 to 6 are missing");
    let request = app.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let expired = ApiResponse::to(request.header("last-event-id", "1")).await;
    assert_eq!(expired.problem(), (410, "cursor_expired"), "{}", expired.body);
    assert_eq!(Stream::open(&app, Some("6")).await.next().await.unwrap().0, "7");
}

#[tokio::test]
async fn concurrent_writers_produce_each_seq_once() {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let reading = tokio::spawn({
        let api = other_api.clone();
        async move {
            let (mut seqs_read, mut after) = (Vec::new(), "0".to_owned());
            while seqs_read.len() < 2 * WRITERS * EACH {
                let page = api.get(&format!("/v1/events?after={after}&limit=7&wait=55")).await;
                seqs_read.extend(seqs(&data(&page)));
                page.body["next"].as_str().unwrap().clone_into(&mut after);
            }
            seqs_read
        }
    });
    let mut writers = JoinSet::new();
    for n in 0..WRITERS {
        let api = if n % 2 == 0 { app.api().clone() } else { other_api.clone() };
        writers.spawn(async move {
            for _ in 0..EACH {
                api.send(json!({})).await;
            }
        });
    }
    let worker = app.another_worker().await;
    while writers.join_next().await.is_some() {
        let (one, two) = tokio::join!(app.worker.drain(), worker.drain());
        one.and(two).unwrap();
    }
    app.run_until_idle().await;
    let all: Vec<i64> = (1..).take(2 * WRITERS * EACH).collect();
    assert_eq!(reading.await.unwrap(), all);
    other.stop().await;
}

/// A reader of Server-Sent Events, like a browser.
struct Stream {
    response: Response,
    text: String,
    read: VecDeque<(String, Value)>,
}

impl Stream {
    async fn open(api: &Api, last: Option<&str>) -> Self {
        let mut request = api.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &"text/event-stream".parse().unwrap())
        );
        Self { response, text: String::new(), read: VecDeque::new() }
    }

    /// Returns the next event's `id` and `data`; `None` at the end.
    async fn next(&mut self) -> Option<(String, Value)> {
        while self.read.is_empty() {
            let chunk = tokio::time::timeout(Duration::from_mins(1), self.response.chunk()).await.unwrap().unwrap()?;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let field =
                    |name: &str| block.lines().find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()));
                if let (Some(id), Some(data)) = (field("id:"), field("data:")) {
                    let event: Value = serde_json::from_str(&data).unwrap();
                    assert_eq!(field("event:").as_deref(), event["type"].as_str());
                    self.read.push_back((id, event));
                }
                self.text = rest.into();
            }
        }
        self.read.pop_front()
    }
}
