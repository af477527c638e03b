//! Cancel, retry and reschedule, concurrent with two workers on the same rows. In any order, the response, the mailbox
//! and the database agree, and no message is sent twice.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::postgres::until_waiting_for_lock;

/// Two workers that run concurrently with the test.
struct Working {
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Working {
    async fn start(app: &TestApp) -> Self {
        let stop = CancellationToken::new();
        let mut running = Vec::new();
        for worker in [app.another_worker().await, app.another_worker().await] {
            let stop = stop.clone();
            running.push(tokio::spawn(async move { worker.run(stop).await }));
        }
        Self { stop, running }
    }

    /// Stops the workers gracefully, and then runs everything that is due.
    async fn stop(self, app: &TestApp) {
        self.stop.cancel();
        join_all(self.running).await;
        app.run_until_idle().await;
    }
}

/// Returns the recipients that got a message, and checks that each got it once.
fn reached(app: &TestApp) -> BTreeSet<String> {
    let all: Vec<String> = app.smtp.messages().into_iter().flat_map(|message| message.to).collect();
    let once: BTreeSet<String> = all.iter().cloned().collect();
    assert_eq!(once.len(), all.len(), "a recipient got a message twice");
    once
}

fn strings(list: &Value) -> BTreeSet<String> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn canceled_recipients_get_nothing_and_others_get_it_once() {
    let app = TestApp::start().await;
    let working = Working::start(&app).await;
    let mut canceled = BTreeSet::new();
    for round in 0..6 {
        let calls = join_all((0..25).map(|n| {
            let app = &app;
            async move {
                let to: Vec<String> = (0..2).map(|r| format!("r{round}-{n}-{r}@example.test")).collect();
                let message = app.send(json!({"to": to})).await;
                let response = app.post(&format!("/v1/messages/{}/cancel", message.id), &json!({})).await.body;
                let (canceled_now, too_late) = (strings(&response["canceled"]), strings(&response["too_late"]));
                assert_eq!((canceled_now.len() + too_late.len(), canceled_now.intersection(&too_late).count()), (2, 0));
                canceled_now
            }
        }));
        canceled.extend(calls.await.into_iter().flatten());
    }
    working.stop(&app).await;
    let reached = reached(&app);
    assert_eq!((reached.len() + canceled.len(), reached.intersection(&canceled).count()), (300, 0));
}

/// A complaint about the first attempt changes the recipient while it waits for the second one.
#[tokio::test]
async fn recipient_that_is_changed_meanwhile_is_canceled() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let message = app.send(json!({})).await;
    app.run_until_idle().await;
    let (mut complaint, mut watching) = (app.database.connect().await, app.database.connect().await);
    sqlx::raw_sql("BEGIN; UPDATE recipients SET name = name").execute(&mut complaint).await.unwrap();
    let cancel = async { app.post(&format!("/v1/messages/{}/cancel", message.id), &json!({})).await.status };
    let commit = async {
        until_waiting_for_lock(&mut watching, "recipients").await;
        sqlx::raw_sql("COMMIT").execute(&mut complaint).await.unwrap();
    };
    let (status, ()) = tokio::join!(cancel, commit);
    assert_eq!((status, app.status(&message.id).await.as_str()), (200, "canceled"));
    assert_eq!(app.events(&message.id).await, ["accepted", "deferred", "canceled"]);
}

#[tokio::test]
async fn repeated_retries_send_each_message_once() {
    let app = TestApp::start().await;
    let addresses: Vec<String> = (0..40).map(|n| format!("{n}@example.test")).collect();
    for address in &addresses {
        app.smtp.rcpt(address).replies(["451 4.3.2 later"]);
    }
    let sent = join_all(addresses.iter().map(|address| app.send(json!({"to": address})))).await;
    app.run_until_idle().await;
    let working = Working::start(&app).await;
    let calls = sent.iter().flat_map(|message| std::iter::repeat_n(message, 3)).map(|message| {
        let app = &app;
        async move {
            let response = app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await;
            let code = response.problem().1.to_owned();
            assert!(
                response.status == 200 || ["in_flight", "nothing_to_retry"].contains(&code.as_str()),
                "{response:?}"
            );
        }
    });
    let due = async { app.clock.advance(minutes(2)) };
    tokio::join!(join_all(calls), due);
    working.stop(&app).await;
    assert_eq!(reached(&app).len(), 40);
    for message in &sent {
        assert_eq!(app.recipient(&message.id).await["attempts"], 2);
    }
}

#[tokio::test]
async fn rescheduled_message_waits_for_its_new_time() {
    let app = TestApp::start().await;
    let (at, later) = (app.clock.text_in(hours(1)), app.clock.text_in(hours(3)));
    let sent =
        join_all((0..40).map(|n| app.send(json!({"to": format!("{n}@example.test"), "scheduled_at": at})))).await;
    let second = app.another_worker().await;
    let (early, rest) = sent.split_at(10);
    let patch = async |id: &str| {
        let response = app.patch(&format!("/v1/messages/{id}"), &json!({"scheduled_at": later})).await;
        assert!(response.status == 200 || response.problem() == (409, "not_scheduled"), "{response:?}");
        response.status == 200
    };
    for message in early {
        assert!(patch(&message.id).await);
    }
    let due = async {
        app.clock.advance(hours(1));
        let (first, second) = tokio::join!(app.worker.drain(), second.drain());
        first.and(second).unwrap();
    };
    let (moved, ()) = tokio::join!(join_all(rest.iter().map(|message| patch(&message.id))), due);
    app.run_until_idle().await;
    for (message, moved) in rest.iter().zip(moved) {
        assert_eq!(app.status(&message.id).await, if moved { "scheduled" } else { "relayed" });
    }
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    assert_eq!(reached(&app).len(), 40);
}

#[tokio::test]
async fn retry_locks_lanes_in_the_order_of_workers() {
    let app = TestApp::start().await;
    for address in ["ann@example.test", "bo@example.test"] {
        app.smtp.rcpt(address).replies(["451 4.3.2 later"]);
    }
    let message = app.send(json!({"to": ["ann@example.test", "bo@example.test"]})).await;
    app.run_until_idle().await;
    // One recipient waits in an unreachable lane, the other in a reachable lane with a higher id.
    app.sql(
        "INSERT INTO lanes (tenant_id, stream, route, domain, priority, ready_at)
         SELECT tenant_id, stream, 'mx', 'later.test', priority, 'infinity' FROM lanes;
         UPDATE queue SET lane_id = (SELECT id FROM lanes WHERE domain = 'later.test'), due_at = '2026-11-23T13:00:00Z'
         WHERE recipient_id = (SELECT max(id::text)::uuid FROM recipients);
         UPDATE lanes SET ready_at = '2026-11-23T13:00:00Z' WHERE domain = 'later.test';
         UPDATE lanes SET ready_at = '2026-11-23T11:00:00Z', blocked_since = now(), block_failures = 1,
             block_reply = '421 later', open_at = '2026-11-23T13:00:00Z' WHERE domain = '*'",
    )
    .await;
    let (mut worker, mut watching) = (app.database.connect().await, app.database.connect().await);
    let lock = "BEGIN; SELECT FROM lanes WHERE domain = '*' FOR NO KEY UPDATE";
    sqlx::raw_sql(lock).execute(&mut worker).await.unwrap();
    let retry = async { app.post(&format!("/v1/messages/{}/retry", message.id), &json!({})).await.status };
    let working = async {
        until_waiting_for_lock(&mut watching, "").await;
        let next = "SELECT FROM lanes WHERE domain = 'later.test' FOR NO KEY UPDATE; COMMIT";
        sqlx::raw_sql(next).execute(&mut worker).await.map(|_| ())
    };
    let (status, locked) = tokio::join!(retry, working);
    locked.expect("no deadlock");
    assert_eq!(status, 200);
    app.run_until_idle().await;
    assert_eq!(app.states(&message.id).await, ["relayed", "relayed"]);
}

#[tokio::test]
async fn recipient_in_flight_cannot_be_retried_or_rescheduled() {
    let app = TestApp::start().await;
    let gate = app.smtp.dot().stalls();
    let message = app.send(json!({})).await;
    let working = app.start_working();
    gate.reached().await;
    let path = format!("/v1/messages/{}", message.id);
    assert_eq!(app.post(&format!("{path}/retry"), &json!({})).await.problem(), (409, "in_flight"));
    let moved = app.patch(&path, &json!({"scheduled_at": app.clock.text_in(hours(1))})).await;
    assert_eq!(moved.problem(), (409, "not_scheduled"));
    gate.open();
    working.await.unwrap().unwrap();
    assert_eq!(app.post(&format!("{path}/retry"), &json!({})).await.problem(), (409, "nothing_to_retry"));
}

#[tokio::test]
async fn retry_probes_an_unreachable_lane_but_keeps_its_rate() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let message = app.send(json!({})).await;
    app.run_until_idle().await;
    let open = async || -> bool {
        let query = "SELECT open_at <= '2026-11-23T12:00:00Z' FROM lanes WHERE stream = 'transactional'";
        sqlx::query_scalar(query).fetch_one(&mut app.database.connect().await).await.unwrap()
    };
    let retry = format!("/v1/messages/{}/retry", message.id);
    app.sql("UPDATE lanes SET open_at = '2026-11-23T12:05:00Z'").await;
    assert_eq!(app.post(&retry, &json!({})).await.status, 200);
    assert!(!open().await, "the rate still applies");
    app.sql("UPDATE lanes SET blocked_since = now(), block_failures = 3").await;
    assert_eq!(app.post(&retry, &json!({})).await.status, 200);
    assert!(open().await);
}
