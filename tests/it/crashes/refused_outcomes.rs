//! Postgres refuses an outcome. Other outcomes are recorded, and the refused one is not lost.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::app::TestApp;
use crate::support::client::Sent;

/// Makes Postgres refuse the outcomes of these recipients, or wait for a lock.
const REFUSE: &str = "
    CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.address LIKE 'bad%' THEN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END IF;
        IF NEW.address LIKE 'locked%' THEN PERFORM pg_advisory_xact_lock(1); END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER refuse BEFORE UPDATE ON recipients FOR EACH ROW EXECUTE FUNCTION refuse()";

/// Starts a worker that runs until it is stopped.
async fn start_worker(app: &TestApp) -> (CancellationToken, JoinHandle<()>) {
    let (worker, stop) = (app.another_worker().await, CancellationToken::new());
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.run(stop).await }
    });
    (stop, running)
}

/// Sends four messages to addresses with this prefix, one after the other, so that no two are recorded together.
async fn send_four(app: &TestApp, name: &str) -> Vec<Sent> {
    let mut sent = Vec::new();
    for n in 1..=4 {
        sent.push(app.send(json!({"to": format!("{name}{n}@example.test")})).await);
        app.smtp.received(n).await;
    }
    sent
}

/// Waits until the message is relayed.
async fn wait_until_relayed(app: &TestApp, message: &Sent) {
    let relayed = async {
        while app.status(&message.id).await != "relayed" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), relayed).await.expect("it is recorded");
}

#[tokio::test]
async fn repeatedly_refused_outcomes_do_not_delay_others() {
    let app = TestApp::builder().config(|config| config.delivery.shutdown_grace = Duration::ZERO).start().await;
    app.sql(REFUSE).await;
    let (stop, running) = start_worker(&app).await;
    let bad = send_four(&app, "bad").await;
    wait_until_relayed(&app, &app.send(json!({})).await).await;
    for message in &bad {
        assert_eq!(app.status(&message.id).await, "sending", "otherwise it would be sent again");
    }
    stop.cancel();
    running.await.unwrap();
    app.sql("DROP TRIGGER refuse ON recipients").await;
    app.run_until_idle().await;
}

#[tokio::test]
async fn locked_outcomes_do_not_delay_others_and_are_recorded_later() {
    let app = TestApp::builder().config(|config| config.database.timeout = Duration::from_secs(1)).start().await;
    app.sql(REFUSE).await;
    let mut lock = app.database.connect().await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let (stop, running) = start_worker(&app).await;
    let locked = send_four(&app, "locked").await;
    wait_until_relayed(&app, &app.send(json!({})).await).await;

    sqlx::raw_sql("SELECT pg_advisory_unlock(1)").execute(&mut lock).await.unwrap();
    for message in &locked {
        wait_until_relayed(&app, message).await;
    }
    stop.cancel();
    running.await.unwrap();
    assert_eq!(app.smtp.messages().len(), 5);
}

#[tokio::test]
async fn attempt_number_stops_at_its_maximum() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.3.2 later"]);
    let message = app.send(json!({})).await;
    app.sql("UPDATE queue SET attempts = 32767; UPDATE recipients SET attempts = 32767").await;
    app.run_until_idle().await;
    let ann = app.recipient(&message.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("deferred"), &json!(32_767)));
}
