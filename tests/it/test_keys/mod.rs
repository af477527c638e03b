//! Test keys: everything works as with a live key, but nothing is sent, and test and live data are separate.

mod clock;
mod resend;
mod sending;
mod separation;
mod settings;

use crate::support::app::TestApp;

/// Returns the address of a script of the simulator. The label makes it unique.
fn address(script: &str, label: usize) -> String {
    format!("{script}+{label}@simulator.postrider.test")
}

/// Runs the worker until nothing is due, and then plays the bounces, complaints and other follow-ups of deliveries.
async fn run(app: &TestApp) {
    app.run_until_idle().await;
    app.worker.play_simulated_followups().await.unwrap();
}
