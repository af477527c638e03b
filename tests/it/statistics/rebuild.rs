//! `postrider statistics rebuild` counts all stored events again.

use serde_json::{Value, json};

use super::statistics;
use crate::support::app::TestApp;
use crate::support::clock::{hours, minutes};
use crate::support::process::{on, run, stderr_of};

/// Returns all figures.
async fn figures(app: &TestApp) -> Vec<Value> {
    let mut connection = app.database.connect().await;
    let mut figures = Vec::new();
    for table in
        ["SELECT to_jsonb(s) FROM statistics s ORDER BY s", "SELECT to_jsonb(d) FROM statistics_details d ORDER BY d"]
    {
        figures.extend(sqlx::query_scalar::<_, Value>(table).fetch_all(&mut connection).await.unwrap());
    }
    figures
}

async fn rebuild(app: &TestApp, arguments: &[&str]) -> std::process::Output {
    run(on(&app.database.url, &[&["statistics", "rebuild"], arguments].concat())).await
}

#[tokio::test]
async fn counting_again_has_the_same_result() {
    let app = TestApp::start().await;
    app.smtp.rcpt("bo@gmail.com").replies(["550 5.1.1 unknown"]);
    for script in ["dsn", "complaint", "defer-2", "expired", "suppressed"] {
        app.send(json!({"to": ["ann@example.test", "bo@gmail.com", format!("{script}@simulator.postrider.test")]}))
            .await;
        app.run_until_idle().await;
        app.clock.advance(minutes(7));
        app.worker.play_simulated_followups().await.unwrap();
        // Counted in several parts.
        app.worker.count_events().await.unwrap();
    }
    for _ in 0..30 {
        app.clock.advance(hours(1));
        app.run_until_idle().await;
    }
    app.worker.count_events().await.unwrap();
    let before = figures(&app).await;
    assert!(before.len() > 20, "{before:#?}");

    let done = rebuild(&app, &[]).await;
    assert!(done.status.success(), "{}", stderr_of(&done));
    assert!(String::from_utf8_lossy(&done.stdout).contains("1 tenant"));
    assert_eq!(app.get("/v1/statistics").await.body["as_of"], Value::Null);
    statistics(&app, "").await;
    assert_eq!(figures(&app).await, before);
}

#[tokio::test]
async fn rebuild_corrects_wrong_figures_of_one_tenant() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    let before = figures(&app).await;
    app.sql(
        "UPDATE statistics SET relayed = 7; DELETE FROM statistics_details;
         INSERT INTO statistics SELECT tenant_id, step, start_at - interval '1 year', stream, provider, accepted, relayed,
             delivered, bounced, expired, suppressed, canceled, uncertain, deferred, complained, unsubscribed FROM statistics",
    )
    .await;
    let unknown = rebuild(&app, &["--tenant", "nobody"]).await;
    assert!(!unknown.status.success() && stderr_of(&unknown).contains("hint: "), "{}", stderr_of(&unknown));
    let done = rebuild(&app, &["--tenant", "default"]).await;
    assert!(done.status.success(), "{}", stderr_of(&done));
    app.worker.count_events().await.unwrap();
    assert_eq!(figures(&app).await, before);
}
