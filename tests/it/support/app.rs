//! Postrider with a separate database, and a clock and a mail server that the test controls. The API listens as usual;
//! the worker runs only when the test calls it.
//!
//! Dropping a `TestApp` checks the database against the invariants ([`super::invariants`]).

use std::net::SocketAddr;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use postrider::app::{App, Roles, build_worker};
use postrider::clock::Clock;
use postrider::config::Config;
use postrider::db::keys::{self, NewKey};
use postrider::db::{Db, DbError};
use postrider::domain::id::{KeyId, TenantId};
use postrider::domain::key::{KeyMode, Scope, Secret};
use postrider::worker::Worker;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use super::client::Api;
use super::clock::TestClock;
use super::dns::DnsServer;
use super::invariants;
use super::postgres::{Database, run_separately, runtime};
use super::smtp::SmtpServer;
use crate::support::inbound_client as smtp_in;

pub struct TestApp {
    /// The relay, or with direct delivery the server of every MX.
    pub smtp: SmtpServer,
    pub clock: Arc<TestClock>,
    pub worker: Worker,
    pub config: Config,
    pub database: Database,
    pub db: Db,
    api: Api,
    app: App,
    /// That of an app with all roles, whose worker has to go on while this is dropped.
    runtime: Option<Runtime>,
}

#[derive(Default)]
pub struct TestAppBuilder {
    config: Config,
    is_direct: bool,
    has_all_roles: bool,
}

impl TestAppBuilder {
    /// Runs the API and a worker in one process, as `postrider serve` does. The worker that the test controls is an
    /// additional one.
    pub fn with_all_roles(mut self) -> Self {
        self.has_all_roles = true;
        self
    }

    /// Changes the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Configures signed return paths at `return.acme.test`, and an SMTP server for bounces.
    pub fn with_inbound(self) -> Self {
        self.config(|config| {
            config.secret_key = Some("a secret of the tests, and of nobody else".to_owned().into());
            config.return_path.domain = Some("return.acme.test".into());
            config.inbound.listen = Some("127.0.0.1:0".parse().unwrap());
            config.inbound.authenticate = false;
            config.inbound.feedback = Some("fbl@return.acme.test".into());
        })
    }

    /// Configures SMTP submission with STARTTLS and with TLS from the start, if there is a certificate: the files of its
    /// chain and of its key.
    pub fn with_submission(self, certificate: Option<(&Path, &Path)>) -> Self {
        self.config(|config| {
            let section = &mut config.submission;
            section.listen = Some("127.0.0.1:0".parse().unwrap());
            if let Some((chain, key)) = certificate {
                section.tls_listen = section.listen;
                (section.cert_file, section.key_file) = (Some(chain.to_owned()), Some(key.to_owned()));
            }
        })
    }

    /// Configures direct delivery to the MX records of this DNS server.
    pub fn direct(mut self, dns: &DnsServer) -> Self {
        self.is_direct = true;
        self.config.dns = Some(dns.address());
        self.config.delivery.allow_loopback_mx = true;
        self
    }

    pub async fn start(self) -> TestApp {
        let (smtp, database, clock) = (SmtpServer::start().await, Database::new(), Arc::new(TestClock::new()));
        let mut config = self.config;
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.hostname = Some("postrider.test".into());
        config.database.url = Some(database.url.clone().into());
        // The worker sends no heartbeat until the test runs it.
        config.delivery.lease = Duration::from_hours(1);
        config.restore_guard.state = "/nonexistent".into();
        if self.is_direct {
            config.mx_port = smtp.address().port();
        } else {
            config.relay_url = Some(format!("smtp://{}?tls=none", smtp.address()).into());
        }
        let db = Db::new(&database.url, 8, config.database.timeout).unwrap();
        let runtime = self.has_all_roles.then(runtime);
        // Boxed, because these futures are large and part of every test.
        let app = match &runtime {
            None => Box::pin(App::start(&config, Roles::Api, clock.clone(), None)).await,
            Some(runtime) => {
                let (config, clock) = (config.clone(), clock.clone());
                runtime.spawn(async move { App::start(&config, Roles::All, clock, None).await }).await.unwrap()
            }
        };
        let app = app.unwrap();
        let worker = build_worker(&config, db.clone(), clock.clone(), app.wake(), app.caches());
        let worker = Box::pin(worker).await.unwrap();
        let key = make_key(&db, &*clock, &Scope::ALL, None).await;
        let api = Api::new(format!("http://{}", app.api_address().unwrap()), key);
        TestApp { smtp, clock, worker, config, database, db, api, app, runtime }
    }
}

impl TestApp {
    /// Starts with the default settings.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    pub fn builder() -> TestAppBuilder {
        TestAppBuilder::default()
    }

    /// Runs the worker until nothing is due.
    pub async fn run_until_idle(&self) {
        self.worker.drain().await.unwrap();
    }

    /// Runs the worker until nothing is due, concurrently with the test.
    pub fn start_working(&self) -> JoinHandle<Result<(), DbError>> {
        let worker = self.worker.clone();
        tokio::spawn(async move { worker.drain().await })
    }

    /// Returns a worker like that of another process.
    pub async fn another_worker(&self) -> Worker {
        self.worker_with(&self.config).await
    }

    /// Returns a worker of another process with another configuration.
    pub async fn worker_with(&self, config: &Config) -> Worker {
        build_worker(config, self.db.clone(), self.clock.clone(), self.app.wake(), Arc::default()).await.unwrap()
    }

    /// Starts an API like that of another process, on the same database.
    pub async fn another_api(&self) -> (App, Api) {
        let app = App::start(&self.config, Roles::Api, self.clock.clone(), None).await.unwrap();
        let api = Api::new(format!("http://{}", app.api_address().unwrap()), self.api.key.clone());
        (app, api)
    }

    /// Returns a client whose key has only these scopes.
    pub async fn with_scopes(&self, scopes: &[Scope]) -> Api {
        self.api.with_key(&make_key(&self.db, &*self.clock, scopes, None).await)
    }

    /// Returns a client whose key may only send, and only from these domains.
    pub async fn with_sender_domains(&self, domains: &[&str]) -> Api {
        self.api.with_key(&make_key(&self.db, &*self.clock, &[Scope::Send], Some(domains)).await)
    }

    /// Returns a client whose test key has every scope that a test key can have.
    pub async fn with_test_key(&self) -> Api {
        self.with_test_scopes(&[Scope::Send, Scope::Read, Scope::Admin]).await
    }

    /// Returns a client whose test key has only these scopes.
    pub async fn with_test_scopes(&self, scopes: &[Scope]) -> Api {
        self.api.with_key(&make_key_of(KeyMode::Test, &self.db, &*self.clock, scopes, None).await)
    }

    /// Returns the address of the bounce server.
    pub fn inbound(&self) -> SocketAddr {
        self.app.inbound_address().unwrap()
    }

    /// Returns the address of submission.
    pub fn submission(&self) -> SocketAddr {
        self.app.submission_address().unwrap()
    }

    /// Returns the address of submission with TLS from the start.
    pub fn submission_tls(&self) -> SocketAddr {
        self.app.submission_tls_address().unwrap()
    }

    /// Sends a bounce over SMTP, and returns the last reply.
    pub async fn deliver_bounce(&self, to: &str, mime: &str) -> String {
        let mut client = smtp_in::Client::connect(self.inbound()).await;
        client.deliver(to, mime).await
    }

    /// Returns the client whose key has every scope.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Deletes the first event, as retention does with old ones. Lists then read the messages themselves, with those that a
    /// test has inserted without events.
    pub async fn delete_first_event(&self) {
        self.sql(
            "DELETE FROM events WHERE seq = 1;
             INSERT INTO deleted_events (tenant_id, up_to) SELECT DISTINCT tenant_id, 1 FROM messages",
        )
        .await;
    }

    /// Runs an SQL statement.
    pub async fn sql(&self, statement: &'static str) {
        sqlx::raw_sql(statement).execute(&mut self.database.connect().await).await.unwrap();
    }
}

impl Deref for TestApp {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            run_separately(async || {
                let mut connection = self.database.connect().await;
                if self.runtime.is_some() {
                    // Its own worker may still be recording an outcome.
                    invariants::leases_end(&mut connection).await;
                }
                invariants::check(&mut connection).await;
            });
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Creates a live API key, and returns it.
pub async fn make_key(db: &Db, clock: &dyn Clock, scopes: &[Scope], domains: Option<&[&str]>) -> String {
    make_key_of(KeyMode::Live, db, clock, scopes, domains).await
}

/// Creates an API key of this mode, and returns it.
pub async fn make_key_of(
    mode: KeyMode,
    db: &Db,
    clock: &dyn Clock,
    scopes: &[Scope],
    domains: Option<&[&str]>,
) -> String {
    let secret = Secret::new(mode, None, rand::random());
    let scopes: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    let domains: Option<Vec<String>> = domains.map(|list| list.iter().map(ToString::to_string).collect());
    let key = NewKey {
        id: KeyId::new(clock.now()),
        tenant: TenantId::DEFAULT,
        name: "test",
        hash: Secret::hash(secret.expose()),
        mode,
        scopes: &scopes,
        sender_domains: domains.as_deref(),
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: clock.now(),
        expires_at: None,
    };
    keys::insert(db, &key).await.unwrap();
    secret.expose().to_owned()
}
