//! An application reads all events, by pages, by long poll and by a stream, and misses none.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::app::TestApp;
use crate::support::client::{Answer, Api};

fn seqs(events: &[Value]) -> Vec<i64> {
    events.iter().map(|event| event["seq"].as_i64().unwrap()).collect()
}

fn data(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["data"].as_array().unwrap().clone()
}

/// All events so far, page by page.
async fn read(api: &Api, query: &str) -> Vec<Value> {
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
async fn pages_show_everything_once_and_in_order() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    let ann = app.send(json!({"tags": [{"name": "kind", "value": "invoice"}], "metadata": {"order": "42"}})).await;
    app.send(json!({"to": ["bo@example.test"]})).await;
    app.run_until_idle().await;

    let all = read(&app, "limit=1").await;
    assert_eq!(seqs(&all), [1, 2, 3, 4]);
    let first = &all[0];
    assert_eq!((&first["type"], &first["data"]["message_id"]), (&json!("message.accepted"), &json!(ann.id)));
    assert_eq!(
        (&first["data"]["metadata"], &first["data"]["tags"][0]["value"]),
        (&json!({"order": "42"}), &json!("invoice"))
    );
    let bounced = read(&app, "type=message.bounced,message.expired").await;
    assert_eq!(bounced.len(), 1);
    assert_eq!(bounced[0]["data"]["recipient"], "bo@example.test");
    assert_eq!(bounced[0]["data"]["response"], json!({"code": 550, "enhanced": "5.1.1", "text": "no such user"}));
    assert_eq!(bounced[0]["data"]["bounce"], json!({"type": "hard", "category": "unknown_user", "source": "smtp"}));
    let of_ann = read(&app, &format!("message_id={}", ann.id)).await;
    assert_eq!(of_ann, app.event_list(&ann.id).await, "one event is the same wherever it is read");

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
async fn what_cannot_be_meant_is_answered_with_its_mend() {
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
        let answer = app.get(&format!("/v1/events?{query}")).await;
        assert!(answer.status == 422 && answer.faults().contains(&(pointer, "invalid_value")), "{query}: {answer:?}");
    }
    let stream = app.request(Method::GET, "/v1/events").header("accept", "text/event-stream");
    let answer = Answer::to(stream.header("last-event-id", "first")).await;
    assert!(answer.faults().contains(&("Last-Event-ID", "invalid_value")), "{answer:?}");
    let sender = app.allowed(&[postrider::domain::key::Scope::Send]).await;
    assert_eq!(sender.get("/v1/events").await.status, 403);
}

#[tokio::test]
async fn rare_type_is_searched_in_parts_and_nothing_is_skipped() {
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
    assert_eq!(seqs(&read(&app, "type=message.canceled").await), [25_001]);
}

#[tokio::test]
async fn a_long_poll_hears_of_what_another_process_accepts() {
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
async fn whoever_waits_is_answered_when_the_service_stops() {
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    app.send(json!({})).await;
    let mut stream = Stream::open(&other_api, None).await;
    assert_eq!(stream.next().await.unwrap().0, "1");
    let waiting = tokio::spawn(async move { other_api.get("/v1/events?after=1&wait=55").await });
    // Brings the poll to the position of the stream.
    app.send(json!({})).await;
    assert_eq!(stream.next().await.unwrap().0, "2");
    assert_eq!(seqs(&data(&waiting.await.unwrap())), [2]);
    other.stop().await;
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn a_stream_goes_on_where_it_broke() {
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
    assert_eq!(stream.next().await.unwrap().0, "3", "it comes by itself");
}

#[tokio::test]
async fn with_many_writers_every_number_is_seen_once() {
    const WRITERS: usize = 4;
    const EACH: usize = 25;
    let app = TestApp::start().await;
    let (other, other_api) = app.another_api().await;
    let reading = tokio::spawn({
        let api = other_api.clone();
        async move {
            let (mut seen, mut after) = (Vec::new(), "0".to_owned());
            while seen.len() < 2 * WRITERS * EACH {
                let page = api.get(&format!("/v1/events?after={after}&limit=7&wait=55")).await;
                seen.extend(seqs(&data(&page)));
                page.body["next"].as_str().unwrap().clone_into(&mut after);
            }
            seen
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

    /// The next event's `id` and `data`; none at the end.
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
