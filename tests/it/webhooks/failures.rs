//! Endpoints that fail: which posts are retried and when, and which posts wait.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use postrider::app::build_worker;
use postrider::clock::Clock as _;
use postrider::config::Config;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes, seconds};
use crate::support::hooks::{self, Hook};
use crate::support::receiver::{Receiver, Reply};

/// Sets a short time limit for posts without a response.
fn short_timeout(config: &mut Config) {
    config.webhooks.timeout = Duration::from_millis(300);
}

async fn send_messages(app: &TestApp, count: usize) {
    for n in 0..count {
        app.send(json!({"to": format!("r{n}@example.test")})).await;
    }
}

#[tokio::test]
async fn failing_post_is_retried_and_does_not_delay_others() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 1").await;
    receiver.script("/hook", [Reply::Status(500)]);
    send_messages(&app, 3).await;
    app.notify().await;
    assert_eq!(receiver.seqs("/hook"), [1, 2, 3]);
    let state = hook.state(&app).await;
    assert_eq!((state.cursor, state.retries, state.failures), (3, 1, 0));

    receiver.script("/hook", [Reply::Status(404), Reply::Status(500)]);
    for (wait, posts) in [(seconds(3), 3), (seconds(3), 4), (minutes(3), 4), (minutes(3), 5), (minutes(23), 5)] {
        app.clock.advance(wait);
        app.notify().await;
        assert_eq!(receiver.posts("/hook").len(), posts, "after {wait}");
    }
    app.clock.advance(minutes(13));
    app.notify().await;
    let posts = receiver.posts("/hook");
    assert_eq!(receiver.seqs("/hook"), [1, 2, 3, 1, 1, 1]);
    assert!([3, 4, 5].iter().all(|n| posts[*n].id == posts[0].id && posts[*n].body == posts[0].body));
    assert_ne!(posts[3].headers["webhook-timestamp"], posts[0].headers["webhook-timestamp"]);
    assert_eq!(hook.state(&app).await.retries, 0);
    let log: Vec<_> = hook.log(&app).await.into_iter().map(|(status, _, attempt)| (status.unwrap(), attempt)).collect();
    assert_eq!(log, [(500, 1), (200, 1), (200, 1), (404, 2), (500, 3), (200, 4)]);
}

#[tokio::test]
async fn failing_delivery_is_given_up_after_ten_attempts() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 1").await;
    receiver.script("/hook", [Reply::Status(400)]);
    app.send(json!({})).await;
    app.notify().await;
    for _ in 0..9 {
        // The retried post comes first, and then one that succeeds.
        receiver.script("/hook", [Reply::Status(400)]);
        app.clock.advance(hours(30));
        app.send(json!({})).await;
        app.notify().await;
    }
    assert_eq!(receiver.seqs("/hook").iter().filter(|seq| **seq == 1).count(), 10);
    let state = hook.state(&app).await;
    assert_eq!((state.retries, state.disabled), (0, None));
}

#[tokio::test]
async fn recovered_endpoint_gets_all_events_of_its_outage() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "").await;
    receiver.always("/hook", Reply::Status(502));
    for _ in 0..24 {
        send_messages(&app, 2).await;
        app.run_until_idle().await;
        app.clock.advance(hours(1));
        app.notify().await;
    }
    let (tries, state) = (receiver.posts("/hook").len(), hook.state(&app).await);
    assert!(tries <= 30, "too many posts to a failing endpoint: {tries}");
    assert!(state.retries <= 16 && state.cursor < 20, "the cursor of a failing endpoint moved: {state:?}");
    assert_eq!(state.last_error.as_deref(), Some("responded with 502: answer"));

    receiver.always("/hook", Reply::Status(200));
    app.clock.advance(hours(24));
    app.notify().await;
    let mut ids = BTreeMap::<i64, Vec<String>>::new();
    let posts = receiver.posts("/hook");
    for post in &posts {
        ids.entry(post.body["seq"].as_i64().unwrap()).or_default().push(post.id.clone());
    }
    assert_eq!(ids.keys().copied().collect::<Vec<_>>(), (1..=96).collect::<Vec<_>>());
    assert!(ids.values().all(|ids| ids.iter().all(|id| *id == ids[0])), "every attempt has the same id");
    assert_eq!(posts.len() - tries, 96, "after the outage each event is posted once");
    let state = hook.state(&app).await;
    assert_eq!((state.cursor, state.retries, state.failures, state.last_error), (96, 0, 0, None));
}

#[tokio::test]
async fn failing_endpoint_is_probed_by_one_post_at_a_time() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 1").await;
    send_messages(&app, 8).await;
    receiver.always("/hook", Reply::Status(500));
    app.notify().await;
    assert_eq!(receiver.seqs("/hook"), [1, 2, 3, 4, 5], "five failures stop new posts");
    assert_eq!(hook.state(&app).await.cursor, 5);
    for tried in [1, 2, 3, 4, 5, 6] {
        let open_at = hook.state(&app).await.open_at.unwrap();
        app.notify().await;
        let posts = receiver.posts("/hook").len();
        app.clock.advance(open_at - app.clock.now());
        app.notify().await;
        assert_eq!(receiver.seqs("/hook")[posts..], [tried], "the event with the fewest attempts is first");
    }
    receiver.always("/hook", Reply::Status(200));
    app.notify_after(24 * 3_600).await;
    let recovered = receiver.seqs("/hook")[11..].to_vec();
    assert_eq!(recovered[0], 6, "the first event with the fewest attempts");
    assert_eq!(recovered[1..], [1, 2, 3, 4, 5, 7, 8]);
}

#[tokio::test]
async fn endpoint_is_disabled_after_five_days_with_an_event() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/dead"), "").await;
    receiver.always("/dead", Reply::Status(500));
    send_messages(&app, 5).await;
    for _ in 0..6 {
        assert_eq!(hook.state(&app).await.disabled, None);
        app.notify_after(24 * 3_600).await;
    }
    let reason = "no post has succeeded for 5 days; the last one: responded with 500: answer";
    assert_eq!(hook.state(&app).await.disabled.as_deref(), Some(reason));
    let posts = receiver.posts("/dead").len();
    app.notify_after(24 * 3_600).await;
    assert_eq!(receiver.posts("/dead").len(), posts);

    let events = app.get("/v1/events?type=webhook.disabled").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1);
    assert_eq!(
        (&events[0]["data"]["endpoint_id"], &events[0]["data"]["response"]["text"]),
        (&json!(hook.id), &json!(reason))
    );
    Hook::add(&app, &receiver.url("/other"), "").await;
    app.notify().await;
    assert_eq!(receiver.posts("/other").last().unwrap().body, events[0]);
}

#[tokio::test]
async fn concurrent_410_responses_create_one_event() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 3").await;
    receiver.always("/hook", Reply::Status(410));
    send_messages(&app, 9).await;
    app.notify().await;
    assert!(hook.state(&app).await.disabled.is_some() && receiver.posts("/hook").len() <= 3);
    let events = app.get("/v1/events?type=webhook.disabled").await.body["data"].clone();
    assert_eq!(events.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn failed_batches_with_common_events_are_both_retried() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    send_messages(&app, 4).await;
    let hook = Hook::add(&app, &receiver.url("/hook"), "batch = 10, cursor = 4").await;
    let mut connection = app.database.connect().await;
    for seqs in [vec![1_i64, 2, 3], vec![2, 3, 4]] {
        sqlx::query(
            "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
             SELECT id, tenant_id, $2, $3, 1, created_at FROM webhook_endpoints WHERE id = $1",
        )
        .bind(hook.id.0)
        .bind(seqs[0])
        .bind(&seqs)
        .execute(&mut connection)
        .await
        .unwrap();
    }
    app.notify().await;
    let posted: Vec<usize> =
        receiver.posts("/hook").iter().map(|post| post.body["events"].as_array().unwrap().len()).collect();
    assert_eq!((posted, hook.state(&app).await.retries), (vec![3, 3], 0));
}

#[tokio::test]
async fn status_410_disables_the_endpoint() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "concurrency = 1").await;
    receiver.always("/hook", Reply::Status(410));
    send_messages(&app, 2).await;
    app.notify().await;
    app.notify_after(24 * 3_600).await;
    assert_eq!(receiver.posts("/hook").len(), 1);
    let state = hook.state(&app).await;
    assert_eq!(state.disabled.as_deref(), Some("the endpoint responded 410 Gone, so it wants no more events"));

    // An operator enables the endpoint again.
    receiver.always("/hook", Reply::Status(200));
    hook.set(&app, "disabled_at = NULL, disabled_reason = NULL").await;
    app.notify_after(24 * 3_600).await;
    let mut seqs = receiver.seqs("/hook")[1..].to_vec();
    seqs.sort_unstable();
    assert_eq!(seqs, [1, 2, 3], "the refused event is posted again");
}

#[tokio::test]
async fn retry_after_is_honoured_up_to_a_day() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let date = (app.clock.now() + TimeDelta::seconds(200)).to_rfc2822().replace("+0000", "GMT");
    for (path, reply) in [
        ("/429", Reply::With(429, "retry-after", "100".into())),
        ("/503", Reply::With(503, "retry-after", date)),
        ("/long", Reply::With(503, "retry-after", "31536000".into())),
    ] {
        Hook::add(&app, &receiver.url(path), "concurrency = 1").await;
        receiver.script(path, [reply]);
    }
    send_messages(&app, 2).await;
    let counts = || ["/429", "/503", "/long"].map(|path| receiver.posts(path).len());
    app.notify().await;
    assert_eq!(counts(), [1, 1, 1]);
    app.notify_after(99).await;
    assert_eq!(counts(), [1, 1, 1], "no other event is posted either");
    app.notify_after(2).await;
    assert_eq!(counts(), [3, 1, 1]);
    app.notify_after(100).await;
    assert_eq!(counts(), [3, 3, 1]);
    app.notify_after(24 * 3_600).await;
    assert_eq!(counts(), [3, 3, 3], "the delay is at most a day");
}

#[tokio::test]
async fn redirects_silence_and_long_responses_are_handled() {
    let (app, receiver) = (hooks::builder().config(short_timeout).start().await, Receiver::start().await);
    let [moved, silent, long] = ["/moved", "/silent", "/long"].map(|path| receiver.url(path));
    let (moved, silent, long) =
        (Hook::add(&app, &moved, "").await, Hook::add(&app, &silent, "").await, Hook::add(&app, &long, "").await);
    receiver.script("/moved", [Reply::With(307, "location", receiver.url("/elsewhere"))]);
    receiver.script("/silent", [Reply::Silence]);
    receiver.script("/long", [Reply::Long(50 << 20)]);
    app.send(json!({})).await;
    app.notify().await;
    assert_eq!(moved.log(&app).await, [(Some(307), Some("redirects are not followed".into()), 1)]);
    assert!(receiver.posts("/elsewhere").is_empty());
    assert_eq!(silent.log(&app).await, [(None, Some("no response within 0.3 s".into()), 1)]);
    assert_eq!(long.log(&app).await, [(Some(200), None, 1)]);
    let stored = "SELECT length(answer) FROM webhook_attempts WHERE status = 200";
    let stored: i32 = sqlx::query_scalar(stored).fetch_one(&mut app.database.connect().await).await.unwrap();
    assert_eq!(stored, 1_000);
}

/// Starts a server that responds to every request with these bytes, once or endlessly.
async fn serve_bytes(bytes: &'static [u8], is_endless: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let serve = async move |mut stream: tokio::net::TcpStream| -> std::io::Result<()> {
        // Reads the request, whose body is a JSON object.
        let mut post = Vec::new();
        while !post.ends_with(b"}") {
            stream.read_buf(&mut post).await?;
        }
        loop {
            stream.write_all(bytes).await?;
            if !is_endless {
                return Ok(());
            }
        }
    };
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // An error means that the client has disconnected.
            let _ = serve(stream).await;
        }
    });
    (url, task)
}

#[tokio::test]
async fn endless_informational_responses_fail_at_once() {
    let app = hooks::start().await;
    let (url, server) = serve_bytes(b"HTTP/1.1 102 Processing\r\n\r\n", true).await;
    let hook = Hook::add(&app, &url, "").await;
    app.send(json!({})).await;
    let started = Instant::now();
    app.notify().await;
    assert_eq!(hook.log(&app).await, [(None, Some("too many informational responses".into()), 1)]);
    // The time limit of a post is 15 s.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    server.abort();
}

#[tokio::test]
async fn a_few_informational_responses_are_ignored() {
    let app = hooks::start().await;
    let few = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n\
                HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (url, server) = serve_bytes(few, false).await;
    let hook = Hook::add(&app, &url, "").await;
    app.send(json!({})).await;
    app.notify().await;
    assert_eq!(hook.log(&app).await, [(Some(200), None, 1)]);
    server.abort();
}

#[tokio::test]
async fn hanging_endpoints_do_not_delay_the_others() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let paths: Vec<String> = (0..10).map(|n| format!("/{n}")).collect();
    for path in &paths {
        Hook::add(&app, &receiver.url(path), "").await;
    }
    paths[..3].iter().for_each(|path| receiver.always(path, Reply::Silence));
    let stop = CancellationToken::new();
    let mut config = app.config.clone();
    config.delivery.shutdown_grace = Duration::ZERO;
    let worker =
        build_worker(&config, app.db.clone(), app.clock.clone(), Arc::default(), Arc::default()).await.unwrap();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    for path in &paths[..3] {
        app.send(json!({})).await;
        receiver.received(path, 1).await;
    }
    let mut slowest = Duration::ZERO;
    for round in 1..=10 {
        app.send(json!({})).await;
        let started = Instant::now();
        // Each message has two events: accepted and relayed.
        for path in &paths[3..] {
            receiver.received(path, 2 * (3 + round)).await;
        }
        slowest = slowest.max(started.elapsed());
    }
    // Far less than the 15 s that the others hang; a test machine may be busy.
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    stop.cancel();
    running.await.unwrap();
}

#[tokio::test]
async fn too_many_pending_retries_stop_new_events() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = Hook::add(&app, &receiver.url("/hook"), "").await;
    app.sql(
        "INSERT INTO webhook_retries (endpoint_id, tenant_id, seq, seqs, attempts, due_at)
         SELECT id, tenant_id, n, ARRAY[n], 1, '2026-11-23T13:00:00Z' FROM webhook_endpoints, generate_series(1001, 2000) n",
    )
    .await;
    app.send(json!({})).await;
    app.notify().await;
    assert_eq!((receiver.posts("/hook").len(), hook.state(&app).await.cursor), (0, 0));
    // Their events do not exist, so that the deliveries are dropped when they are due.
    app.notify_after(3_600).await;
    let state = hook.state(&app).await;
    assert_eq!((receiver.seqs("/hook"), state.retries, state.cursor), (vec![1], 0, 1));
}
