//! Postrider as in production: API and worker with the real clock, on a Postgres that the test can kill.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use postrider::app::{App, Roles};
use postrider::clock::{DatabaseClock, SystemClock};
use postrider::config::{Config, Database};
use postrider::db::Db;
use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::app::make_key;
use super::client::{Api, message};
use super::invariants;
use super::own_postgres::OwnPostgres;
use super::smtp::SmtpServer;
use super::until::until;

/// The time limit of Postrider's database calls.
pub const TIMEOUT: Duration = Duration::from_secs(4);
/// Time limit for Postrider to work again once the database works.
const RECOVERY: Duration = Duration::from_secs(10);
/// The name of the database.
pub const NAME: &str = "mail";

pub struct Site {
    pub smtp: SmtpServer,
    pub postgres: OwnPostgres,
    pub api: Api,
    app: App,
}

/// A refused request.
#[derive(Debug)]
pub struct Refusal {
    pub detail: String,
    pub took: Duration,
}

impl Site {
    pub async fn start() -> Self {
        let (postgres, smtp) = (OwnPostgres::start().await, SmtpServer::start().await);
        let url = postgres.database(NAME).await;
        let db = Db::new(&url, 1, TIMEOUT).unwrap();
        let key = make_key(&db, &SystemClock, &Scope::ALL, None).await;
        db.close().await;
        let mut config = Config {
            secret_key: Some("a secret of the tests, and of nobody else".to_owned().into()),
            listen: "127.0.0.1:0".parse().unwrap(),
            hostname: Some("postrider.test".into()),
            relay_url: Some(format!("smtp://{}?tls=none", smtp.address()).into()),
            ..Config::default()
        };
        config.database = Database { url: Some(url.into()), timeout: TIMEOUT, ..config.database };
        config.return_path.domain = Some("return.acme.test".into());
        config.restore_guard.state = "/nonexistent".into();
        config.inbound.authenticate = false;
        config.inbound.listen = Some("127.0.0.1:0".parse().unwrap());
        config.submission.listen = Some("127.0.0.1:0".parse().unwrap());
        let app = App::start(&config, Roles::All, Arc::new(DatabaseClock::default()), None).await.unwrap();
        let api = Api::new(format!("http://{}", app.api_address().unwrap()), key);
        Self { smtp, postgres, api, app }
    }

    /// Returns the address of the bounce server.
    pub fn inbound(&self) -> SocketAddr {
        self.app.inbound_address().unwrap()
    }

    /// Returns the address of submission.
    pub fn submission(&self) -> SocketAddr {
        self.app.submission_address().unwrap()
    }

    /// Makes transactions that insert into the queue wait for the advisory lock 1 at their commit.
    pub async fn block_commits(&self) {
        // No space after the semicolons of the body, because `sql` splits statements there.
        self.sql(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS
             'BEGIN PERFORM pg_advisory_xact_lock_shared(1);RETURN NULL;END';
             CREATE CONSTRAINT TRIGGER stop AFTER INSERT ON queue DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION stop()",
        )
        .await;
    }

    /// Runs statements as superuser, bypassing the proxy.
    pub async fn sql(&self, statements: &str) {
        self.postgres.sql(NAME, statements).await;
    }

    /// Sends a message that must be refused with 503, and returns the refusal.
    pub async fn refused_request(&self) -> Refusal {
        let started = Instant::now();
        let request = self.api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": "refused"})));
        let response = request.send().await.expect("a response");
        let took = started.elapsed();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=60).contains(&wait), "{wait}");
        let body: Value = response.json().await.unwrap();
        assert_eq!(body["code"], "unavailable");
        Refusal { detail: body["detail"].as_str().unwrap().to_owned(), took }
    }

    /// Returns the status and the detail of `/readyz`.
    async fn readiness(&self) -> (u16, String) {
        let response = self.api.anonymous(Method::GET, "/readyz").send().await.expect("a response");
        let status = response.status().as_u16();
        let body: Value = response.json().await.unwrap();
        (status, body["detail"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until `/readyz` reports a fault, and returns it.
    pub async fn wait_for_fault(&self) -> String {
        loop {
            let (status, detail) = self.readiness().await;
            if status == 503 {
                return detail;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Waits until messages are accepted and sent. Panics after a time limit.
    pub async fn wait_until_working(&self) {
        let started = Instant::now();
        until("the service is ready", RECOVERY, async || {
            let (status, detail) = self.readiness().await;
            if status == 200 { Ok(()) } else { Err(format!("{status} {detail:?}")) }
        })
        .await;
        let count = self.smtp.messages().len();
        // A connection to a server that was read-only may be found only by this request, which is then to be repeated.
        until("a message is accepted", RECOVERY, async || {
            let request = self.api.request(Method::POST, "/v1/messages").json(&message(json!({"subject": "after"})));
            let status = request.send().await.expect("a response").status().as_u16();
            if status == 202 { Ok(()) } else { Err(status.to_string()) }
        })
        .await;
        self.smtp.received(count + 1).await;
        assert!(started.elapsed() < RECOVERY, "{:?}", started.elapsed());
    }

    /// Stops Postrider, and checks the invariants.
    pub async fn end(self) {
        self.end_with(async {}).await;
    }

    /// Stops Postrider, runs a future once it accepts no more requests, and checks the invariants.
    pub async fn end_with(mut self, work: impl Future<Output = ()>) {
        let address = self.app.api_address().unwrap();
        let work_after_listening = async {
            while TcpStream::connect(address).await.is_ok() {
                tokio::task::yield_now().await;
            }
            work.await;
        };
        tokio::join!(self.app.stop(), work_after_listening);
        invariants::check(&mut self.postgres.connect(NAME).await).await;
        self.postgres.stop().await;
    }
}
