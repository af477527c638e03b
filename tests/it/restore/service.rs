//! The service on such a server, and what the tests check of it.

use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::Command;

use super::server::{LIMIT, Server};
use crate::support::client::{Api, message};
use crate::support::process::{Service, admin_key, key, on, run, serve, stderr_of};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

/// A running service with a relay, and a directory in which it remembers the newest state.
pub struct Mail {
    pub smtp: SmtpServer,
    pub state: tempfile::TempDir,
    key: String,
}

impl Mail {
    pub async fn new(database: &str) -> Self {
        Self { smtp: SmtpServer::start().await, state: tempfile::tempdir().unwrap(), key: key(database).await }
    }

    /// Returns the command of a service with its memory.
    pub fn command(&self, database: &str) -> Command {
        let mut command = self.forgetful(database);
        command.env("POSTRIDER_RESTORE_GUARD__STATE", self.state.path());
        command
    }

    /// Returns the command of a service without a memory, as on another machine.
    pub fn forgetful(&self, database: &str) -> Command {
        serve(database, self.smtp.address(), &[])
    }

    pub async fn start(&self, database: &str) -> Service {
        Service::start(self.command(database)).await
    }

    pub fn api(&self, service: &Service) -> Api {
        Api::new(service.address.clone().unwrap(), self.key.clone())
    }

    /// Waits until the machine remembers a later mark than the present one.
    pub async fn remembers(&self, server: &Server<'_>) {
        let mark = server.number("SELECT mark FROM installation").await;
        until("a later mark", LIMIT, async || {
            let files = std::fs::read_dir(self.state.path()).unwrap().flatten().map(|file| file.path());
            let json = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
            let marks: Vec<Value> =
                json.map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()).collect();
            if marks.iter().any(|found| found["number"].as_i64() > Some(mark)) { Ok(()) } else { Err(json!(marks)) }
        })
        .await;
    }

    /// Returns a client with a key that may administer.
    pub async fn admin(&self, database: &str, service: &Service) -> Api {
        Api::new(service.address.clone().unwrap(), admin_key(database).await)
    }

    /// Sends a message, which must arrive, and returns how many have arrived.
    pub async fn delivers(&self, service: &Service) -> usize {
        let count = self.smtp.messages().len() + 1;
        self.accepted(service).await;
        self.smtp.received(count).await;
        assert!(service.lines().iter().all(|line| line["event"] != "restore_guard_holds"), "{:?}", service.lines());
        count
    }

    /// Sends a message, again while a failover is noticed, and returns its id.
    pub async fn accepted(&self, service: &Service) -> String {
        let (api, mut id) = (self.api(service), String::new());
        until("a message is accepted", LIMIT, async || {
            let response = api.post("/v1/messages", &message(json!({}))).await;
            response.body["id"].as_str().unwrap_or_default().clone_into(&mut id);
            if response.status == 202 { Ok(()) } else { Err(response.body) }
        })
        .await;
        id
    }

    /// Waits until a message has this status.
    pub async fn reaches(&self, service: &Service, id: &str, status: &str) {
        let api = self.api(service);
        until(status, LIMIT, async || {
            let found = api.status(id).await;
            if found == status { Ok(()) } else { Err(found) }
        })
        .await;
    }

    /// Waits until the guard holds, checks that a message is accepted and waits, and returns the reason and the message.
    pub async fn holds(&self, service: &mut Service) -> (String, String) {
        let line = service.logged_event("restore_guard_holds").await;
        let (api, count) = (self.api(service), self.smtp.messages().len());
        let id = self.accepted(service).await;
        let explained = api.get(&format!("/v1/messages/{id}/explain")).await.body;
        assert_eq!(explained["recipients"][0]["blocker"]["kind"], "restore_guard", "{explained}");
        // A due message would have been claimed long before two more checks.
        self.checked_twice(&api).await;
        assert_eq!((api.status(&id).await.as_str(), self.smtp.messages().len()), ("queued", count));
        let ready = api.anonymous(Method::GET, "/readyz").send().await.unwrap().status();
        assert_eq!(ready, 200, "the API is ready");
        (line["reason"].as_str().unwrap().to_owned(), id)
    }

    /// Waits until the last event has been visible for two checks of the guard.
    pub async fn checked_twice(&self, api: &Api) {
        let started = std::time::Instant::now();
        until("two checks", LIMIT, async || {
            api.get("/v1/events?after=latest").await;
            if started.elapsed().as_secs() >= 2 { Ok(()) } else { Err("too early") }
        })
        .await;
    }

    /// Returns the events of the feed.
    pub async fn feed(&self, service: &Service, after: i64) -> Vec<Value> {
        let page = self.api(service).get(&format!("/v1/events?after={after}&limit=100")).await.body;
        page["data"].as_array().unwrap_or_else(|| panic!("{page}")).clone()
    }

    /// Runs `postrider release` with the memory and these arguments, and returns its output.
    pub async fn release(&self, database: &str, arguments: &[&str]) -> String {
        let mut command = on(database, &[&["release"], arguments].concat());
        command.env("POSTRIDER_RESTORE_GUARD__STATE", self.state.path());
        let output = run(command).await;
        assert!(output.status.success(), "{}", stderr_of(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}
