//! `serve` is killed or frozen at every step of a delivery. Nothing is lost; a second copy is sent only if the body of the first
//! one was sent, and only with `on_uncertain: retry`.

use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::process::Command;

use crate::support::client::{Api, Sent};
use crate::support::invariants;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::{Gate, SmtpServer};

/// A database, a relay, and a service that is about to send its first message.
struct Scene {
    database: Database,
    smtp: SmtpServer,
    first: Service,
    api: Api,
}

impl Scene {
    async fn set() -> Self {
        let (database, smtp) = (Database::new(), SmtpServer::start().await);
        let first = Service::start(quick(&database, &smtp)).await;
        let api = Api::new(first.address.clone().unwrap(), key(&database.url).await);
        Self { database, smtp, first, api }
    }

    /// Another service on the same database, and its API.
    async fn another(&self) -> (Service, Api) {
        let service = Service::start(quick(&self.database, &self.smtp)).await;
        let api = Api::new(service.address.clone().unwrap(), self.api.key.clone());
        (service, api)
    }

    /// Sends a message, and waits until the relay has reached the gate.
    async fn sends_up_to(&self, gate: &Gate, fields: Value) -> Sent {
        let mail = self.api.send(fields).await;
        gate.reached().await;
        mail
    }

    /// Kills the first service there; the second takes over, and stops gracefully. Returns the message's final state.
    async fn killed_at(self, gate: &Gate, fields: Value) -> Ending {
        let mail = self.sends_up_to(gate, fields).await;
        self.killed(gate, &mail).await
    }

    async fn killed(self, gate: &Gate, mail: &Sent) -> Ending {
        let Self { database, smtp, first, api } = self;
        first.kill().await;
        gate.open();
        let scene = Remains { database, smtp, key: api.key };
        scene.taken_over(mail).await
    }
}

struct Remains {
    database: Database,
    smtp: SmtpServer,
    key: String,
}

struct Ending {
    status: String,
    copies: usize,
}

impl Remains {
    async fn taken_over(self, mail: &Sent) -> Ending {
        let mut second = Service::start(quick(&self.database, &self.smtp)).await;
        let api = Api::new(second.address.clone().unwrap(), self.key);
        second.logged_event("leases_rescued").await;
        let status = ended(&api, mail).await;
        assert!(second.terminate().await.success());
        invariants::check(&mut self.database.connect().await).await;
        Ending { status, copies: self.smtp.mails().len() }
    }
}

/// With the shortest lease.
fn quick(database: &Database, smtp: &SmtpServer) -> Command {
    let mut command = serve(&database.url, smtp.address(), &[]);
    command.env("POSTRIDER_DELIVERY__LEASE", "1s");
    command
}

/// Waits until a message has an end state.
async fn ended(api: &Api, mail: &Sent) -> String {
    loop {
        let status = api.status(&mail.id).await;
        if !matches!(status.as_str(), "queued" | "sending" | "deferred") {
            return status;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn killed_after_the_claim_it_sends_one_copy() {
    let scene = Scene::set().await;
    let gate = scene.smtp.greeting().stalls();
    let ending = scene.killed_at(&gate, json!({})).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 1));
}

#[tokio::test]
async fn killed_after_mail_it_sends_one_copy() {
    let scene = Scene::set().await;
    let gate = scene.smtp.mail().stalls();
    let ending = scene.killed_at(&gate, json!({})).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 1));
}

#[tokio::test]
async fn killed_after_the_dot_the_same_mail_goes_again() {
    let scene = Scene::set().await;
    let gate = scene.smtp.dot().stalls();
    let ending = scene.killed_at(&gate, json!({})).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 2));
}

#[tokio::test]
async fn killed_after_final_dot_with_hold_or_fail_makes_no_copy() {
    for choice in ["hold", "fail"] {
        let scene = Scene::set().await;
        let gate = scene.smtp.dot().stalls();
        let ending = scene.killed_at(&gate, json!({"on_uncertain": choice})).await;
        assert_eq!((ending.status.as_str(), ending.copies), ("uncertain", 1), "{choice}");
    }
}

/// The relay has answered 250, and the outcome cannot be committed.
async fn killed_after_the_250(fields: Value) -> Ending {
    let scene = Scene::set().await;
    let gate = scene.smtp.dot().stalls();
    let mail = scene.sends_up_to(&gate, fields).await;
    let mut lock = scene.database.connect().await;
    let counters = "BEGIN; SELECT FROM event_counters FOR UPDATE";
    sqlx::raw_sql(counters).execute(&mut lock).await.unwrap();
    gate.open();
    scene.smtp.received(1).await;
    waits_for_a_lock(&mut scene.database.connect().await).await;
    let ending = scene.killed(&gate, &mail);
    let (ending, ()) = tokio::join!(ending, async { drop(lock.close().await) });
    ending
}

async fn waits_for_a_lock(connection: &mut PgConnection) {
    let waiting =
        "SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *connection).await.unwrap() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn killed_after_the_250_the_same_mail_goes_again() {
    let ending = killed_after_the_250(json!({})).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 2));
}

#[tokio::test]
async fn killed_after_250_with_hold_or_fail_makes_no_copy() {
    for choice in ["hold", "fail"] {
        let ending = killed_after_the_250(json!({"on_uncertain": choice})).await;
        assert_eq!((ending.status.as_str(), ending.copies), ("uncertain", 1), "{choice}");
    }
}

/// Freezes the service at the gate for longer than its lease, until another has sent the message; then it continues.
async fn frozen_at(scene: Scene, gate: &Gate) -> Ending {
    let mail = scene.sends_up_to(gate, json!({})).await;
    scene.first.freeze().await;
    let (mut second, api) = scene.another().await;
    second.logged_event("leases_rescued").await;
    let status = ended(&api, &mail).await;
    gate.open();
    scene.first.thaw().await;
    // Waits for its end: it finishes its attempts in progress first.
    assert!(scene.first.terminate().await.success());
    assert_eq!(ended(&api, &mail).await, status);
    assert!(second.terminate().await.success());
    invariants::check(&mut scene.database.connect().await).await;
    Ending { status, copies: scene.smtp.mails().len() }
}

#[tokio::test]
async fn frozen_before_mail_it_sends_nothing_when_it_wakes_up() {
    let scene = Scene::set().await;
    let gate = scene.smtp.greeting().stalls();
    let ending = frozen_at(scene, &gate).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 1));
}

#[tokio::test]
async fn frozen_before_the_text_it_does_not_send_it_when_it_wakes_up() {
    let scene = Scene::set().await;
    let gate = scene.smtp.data().stalls();
    let ending = frozen_at(scene, &gate).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 1));
}

#[tokio::test]
async fn frozen_at_the_dot_its_late_word_changes_nothing() {
    let scene = Scene::set().await;
    let gate = scene.smtp.dot().stalls();
    let ending = frozen_at(scene, &gate).await;
    assert_eq!((ending.status.as_str(), ending.copies), ("relayed", 2));
}
