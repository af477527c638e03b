//! Messages to simulator addresses.

mod documented;
mod engine;
mod followups;
mod requests;

use serde_json::json;

use crate::support::app::TestApp;
use crate::support::clock::hours;

/// Returns the address of a script. The label makes it unique.
fn address(script: &str, label: usize) -> String {
    format!("{script}+{label}@simulator.postrider.test")
}

/// Sends a message to a script, and returns its id.
async fn send(app: &TestApp, script: &str) -> String {
    app.send(json!({"to": address(script, 0)})).await.id
}

/// Runs the worker until nothing is due, and then plays the bounces, complaints and other follow-ups of deliveries.
async fn run(app: &TestApp) {
    app.run_until_idle().await;
    app.worker.play_simulated_followups().await.unwrap();
}

/// Runs the worker for 100 simulated hours, in which every script ends. Each deferred recipient has an attempt in each
/// step.
async fn run_to_the_end(app: &TestApp) {
    for _ in 0..20 {
        run(app).await;
        app.clock.advance(hours(5));
    }
}
