//! `serve` is killed or frozen at every step of a delivery. No message is lost; a second copy is sent only if the body
//! of the first one was sent, and only with `on_uncertain: retry`.

use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::process::Command;

use crate::support::client::{Api, Sent};
use crate::support::invariants;
use crate::support::postgres::{Database, until_waiting_for_lock};
use crate::support::process::{Service, key, serve};
use crate::support::smtp::{Gate, SmtpServer};

/// A database, a relay, and a service that has not sent a message yet.
struct Setup {
    database: Database,
    smtp: SmtpServer,
    first: Service,
    api: Api,
}

impl Setup {
    async fn start() -> Self {
        let (database, smtp) = (Database::new(), SmtpServer::start().await);
        let first = Service::start(short_lease(&database, &smtp)).await;
        let api = Api::new(first.address.clone().unwrap(), key(&database.url).await);
        Self { database, smtp, first, api }
    }

    /// Starts another service on the same database. Returns it with its API.
    async fn start_another(&self) -> (Service, Api) {
        let service = Service::start(short_lease(&self.database, &self.smtp)).await;
        let api = Api::new(service.address.clone().unwrap(), self.api.key.clone());
        (service, api)
    }

    /// Sends a message, and waits until the relay has reached the gate.
    async fn send_until(&self, gate: &Gate, fields: Value) -> Sent {
        let message = self.api.send(fields).await;
        gate.reached().await;
        message
    }

    /// Kills the first service at the gate. A second service takes over, and stops gracefully. Returns the message's
    /// final state.
    async fn kill_at(self, gate: &Gate, fields: Value) -> FinalState {
        let message = self.send_until(gate, fields).await;
        self.kill(gate, &message).await
    }

    async fn kill(self, gate: &Gate, message: &Sent) -> FinalState {
        let Self { database, smtp, first, api } = self;
        first.kill().await;
        gate.open();
        let remaining = AfterKill { database, smtp, key: api.key };
        remaining.take_over(message).await
    }
}

struct AfterKill {
    database: Database,
    smtp: SmtpServer,
    key: String,
}

struct FinalState {
    status: String,
    copies: usize,
}

impl AfterKill {
    async fn take_over(self, message: &Sent) -> FinalState {
        let mut second = Service::start(short_lease(&self.database, &self.smtp)).await;
        let api = Api::new(second.address.clone().unwrap(), self.key);
        second.logged_event("leases_rescued").await;
        let status = final_status(&api, message).await;
        assert!(second.terminate().await.success());
        invariants::check(&mut self.database.connect().await).await;
        FinalState { status, copies: self.smtp.messages().len() }
    }
}

/// Returns the command of a service with the shortest lease.
fn short_lease(database: &Database, smtp: &SmtpServer) -> Command {
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_DELIVERY__LEASE", "1s");
    command
}

/// Waits until a message has an end state.
async fn final_status(api: &Api, message: &Sent) -> String {
    loop {
        let status = api.status(&message.id).await;
        if !matches!(status.as_str(), "queued" | "sending" | "deferred") {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn kill_after_the_claim_sends_one_copy() {
    let setup = Setup::start().await;
    let gate = setup.smtp.greeting().stalls();
    let final_state = setup.kill_at(&gate, json!({})).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 1));
}

#[tokio::test]
async fn kill_after_mail_command_sends_one_copy() {
    let setup = Setup::start().await;
    let gate = setup.smtp.mail().stalls();
    let final_state = setup.kill_at(&gate, json!({})).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 1));
}

#[tokio::test]
async fn kill_after_final_dot_sends_the_message_again() {
    let setup = Setup::start().await;
    let gate = setup.smtp.dot().stalls();
    let final_state = setup.kill_at(&gate, json!({})).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 2));
}

#[tokio::test]
async fn kill_after_final_dot_with_hold_or_fail_sends_one_copy() {
    for choice in ["hold", "fail"] {
        let setup = Setup::start().await;
        let gate = setup.smtp.dot().stalls();
        let final_state = setup.kill_at(&gate, json!({"on_uncertain": choice})).await;
        assert_eq!((final_state.status.as_str(), final_state.copies), ("uncertain", 1), "{choice}");
    }
}

/// Kills the service after the relay replied 250 and before the outcome is committed.
async fn kill_after_250(fields: Value) -> FinalState {
    let setup = Setup::start().await;
    let gate = setup.smtp.dot().stalls();
    let message = setup.send_until(&gate, fields).await;
    let mut lock = setup.database.connect().await;
    let counters = "BEGIN; SELECT FROM event_counters FOR UPDATE";
    sqlx::raw_sql(counters).execute(&mut lock).await.unwrap();
    gate.open();
    setup.smtp.received(1).await;
    until_waiting_for_lock(&mut setup.database.connect().await, "").await;
    let final_state = setup.kill(&gate, &message);
    let (final_state, ()) = tokio::join!(final_state, async { drop(lock.close().await) });
    final_state
}

#[tokio::test]
async fn kill_after_250_sends_the_message_again() {
    let final_state = kill_after_250(json!({})).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 2));
}

#[tokio::test]
async fn kill_after_250_with_hold_or_fail_sends_one_copy() {
    for choice in ["hold", "fail"] {
        let final_state = kill_after_250(json!({"on_uncertain": choice})).await;
        assert_eq!((final_state.status.as_str(), final_state.copies), ("uncertain", 1), "{choice}");
    }
}

/// Freezes the service at the gate for longer than its lease, until another service has sent the message, and thaws it.
async fn freeze_at(setup: Setup, gate: &Gate) -> FinalState {
    let message = setup.send_until(gate, json!({})).await;
    setup.first.freeze().await;
    let (mut second, api) = setup.start_another().await;
    second.logged_event("leases_rescued").await;
    let status = final_status(&api, &message).await;
    gate.open();
    setup.first.thaw().await;
    // The thawed service finishes its attempts in progress before it ends.
    assert!(setup.first.terminate().await.success());
    assert_eq!(final_status(&api, &message).await, status);
    assert!(second.terminate().await.success());
    invariants::check(&mut setup.database.connect().await).await;
    FinalState { status, copies: setup.smtp.messages().len() }
}

#[tokio::test]
async fn freeze_before_mail_command_sends_one_copy() {
    let setup = Setup::start().await;
    let gate = setup.smtp.greeting().stalls();
    let final_state = freeze_at(setup, &gate).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 1));
}

#[tokio::test]
async fn freeze_before_the_body_sends_one_copy() {
    let setup = Setup::start().await;
    let gate = setup.smtp.data().stalls();
    let final_state = freeze_at(setup, &gate).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 1));
}

#[tokio::test]
async fn late_outcome_after_a_freeze_at_final_dot_is_ignored() {
    let setup = Setup::start().await;
    let gate = setup.smtp.dot().stalls();
    let final_state = freeze_at(setup, &gate).await;
    assert_eq!((final_state.status.as_str(), final_state.copies), ("relayed", 2));
}
