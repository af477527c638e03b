//! `postrider events`: no event is lost or repeated, whatever happens to the connection.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use super::{command, failure, json_lines, output};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::process::signal;
use crate::support::proxy::Proxy;

const LIMIT: Duration = Duration::from_mins(1);

/// A running `events --follow`.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    errors: Lines<BufReader<tokio::process::ChildStderr>>,
}

impl Follower {
    fn start(api: &Api, arguments: &[&str]) -> Self {
        let mut command = command(api, &[&["events", "--follow"], arguments].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let errors = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, errors }
    }

    /// Returns the `seq` of the next event.
    async fn seq(&mut self) -> i64 {
        let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.expect("an event").unwrap().unwrap();
        serde_json::from_str::<Value>(&line).unwrap()["seq"].as_i64().unwrap()
    }

    /// Waits for the next line on standard error.
    async fn error(&mut self) -> String {
        tokio::time::timeout(LIMIT, self.errors.next_line()).await.expect("a line").unwrap().unwrap()
    }

    /// Sends a signal, and returns whether the command ended with success and without another event.
    async fn ends_at(mut self, name: &str) -> bool {
        signal(&self.child, name).await;
        let status = tokio::time::timeout(LIMIT, self.child.wait()).await.expect("an end").unwrap();
        status.success() && self.lines.next_line().await.unwrap().is_none()
    }
}

#[tokio::test]
async fn stored_events_are_printed_in_order() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["550 5.7.1 No"]);
    let first = app.send(json!({})).await;
    app.send(json!({"to": "bo@example.test"})).await;
    app.run_until_idle().await;
    let stored = app.get("/v1/events").await.body["data"].as_array().unwrap().clone();
    assert_eq!(json_lines(&output(&app, &["events", "--json"]).await), stored);

    let printed = output(&app, &["events", "--message", &first.id]).await;
    let lines: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((lines.len(), lines[0][2], lines[0][4]), (2, "message.accepted", "ann@example.test"), "{printed}");
    assert_eq!(
        lines[1][2..],
        ["message.bounced", first.id.as_str(), "ann@example.test", "550", "5.7.1", "No"],
        "{printed}"
    );

    let relayed = output(&app, &["events", "--type", "message.relayed", "--type", "message.bounced", "--json"]).await;
    let kinds: Vec<Value> = json_lines(&relayed).iter().map(|event| event["type"].clone()).collect();
    assert!(kinds.len() == 2 && kinds.contains(&json!("message.relayed")), "{kinds:?}");
    assert_eq!(json_lines(&output(&app, &["events", "--json", "--after", "1", "--limit", "2"]).await), stored[1..3]);
    assert_eq!(output(&app, &["events", "--after", "latest"]).await, "");
    let (code, errors) = failure(&app, &["events", "--after", "999"]).await;
    assert!(code == 6 && errors.contains("Was the database restored?"), "{errors}");
    assert_eq!(failure(&app, &["events", "--type", "message.lost"]).await.0, 6);
}

#[tokio::test]
async fn follow_neither_loses_nor_repeats_events() {
    let app = TestApp::start().await;
    let address = |base: &str| base.strip_prefix("http://").unwrap().parse().unwrap();
    let mut proxy = Proxy::to(address(&app.base)).await;
    let mut proxied = app.api().clone();
    proxied.base = format!("http://{}", proxy.address);
    app.send(json!({})).await;
    let mut follower = Follower::start(&proxied, &["--after", "0", "--json"]);
    assert_eq!(follower.seq().await, 1);

    // The connection breaks while the command waits, and then nothing listens for a while.
    proxy.refuse().await;
    assert!(follower.error().await.starts_with("warning: "));
    app.send(json!({})).await;
    app.send(json!({})).await;
    proxy.open();
    assert_eq!((follower.seq().await, follower.seq().await), (2, 3));
    assert_eq!(follower.error().await, "note: connected again");

    // A second API process takes over.
    let (other, other_api) = app.another_api().await;
    proxy.set_target(address(&other_api.base));
    proxy.hang_up();
    other_api.send(json!({})).await;
    assert_eq!(follower.seq().await, 4);
    other.stop().await;
    proxy.set_target(address(&app.base));
    app.send(json!({})).await;
    assert_eq!(follower.seq().await, 5);
    assert!(follower.ends_at("INT").await);
}

#[tokio::test]
async fn follow_starts_now_and_ends_at_its_limit() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let mut follower = Follower::start(&app, &["--json", "--limit", "2"]);
    // The position is set by the first request of the command. The test cannot see when that is, so it sends until two
    // events have arrived.
    let seen = async {
        let mut seen = vec![follower.seq().await];
        seen.push(follower.seq().await);
        seen
    };
    let send = async {
        loop {
            app.send(json!({})).await;
        }
    };
    let seen = tokio::select! {
        seen = seen => seen,
        () = send => unreachable!(),
    };
    assert!(seen[0] > 1 && seen[1] == seen[0] + 1, "{seen:?}");
    assert!(tokio::time::timeout(LIMIT, follower.child.wait()).await.expect("an end").unwrap().success());
}

#[tokio::test]
async fn follow_ends_at_a_signal_and_at_a_revoked_key() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    let mut follower = Follower::start(&app, &["--message", &sent.id, "--json"]);
    assert_eq!(follower.seq().await, 1);
    assert!(follower.ends_at("TERM").await);

    let mut follower = Follower::start(&app, &["--after", "0", "--json"]);
    assert_eq!(follower.seq().await, 1);
    app.sql("UPDATE keys SET revoked_at = now() - interval '1 year'").await;
    assert!(follower.error().await.starts_with("error: "));
    let status = tokio::time::timeout(LIMIT, follower.child.wait()).await.expect("an end").unwrap();
    assert_eq!(status.code(), Some(4));
}
