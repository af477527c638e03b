//! `POST /v1/messages/actions` and `/v1/actions`: all messages that match a filter.

mod cancel;
mod due;
mod jobs;
mod plans;
mod rate;
mod requests;
mod tenants;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::until::until;

const PATH: &str = "/v1/messages/actions";
const LIMIT: Duration = Duration::from_secs(30);

/// Starts an action, and returns its id.
async fn start(api: &Api, action: &str, filter: Value) -> String {
    let response = api.post(PATH, &json!({"action": action, "filter": filter})).await;
    assert_eq!(response.status, 202, "{}", response.body);
    let id = response.body["id"].as_str().unwrap().to_owned();
    assert_eq!(response.headers["location"], format!("/v1/actions/{id}"));
    id
}

/// Returns an action.
async fn read(api: &Api, id: &str) -> Value {
    let response = api.get(&format!("/v1/actions/{id}")).await;
    assert_eq!(response.status, 200, "{}", response.body);
    response.body
}

/// Waits until an action has ended, and returns it.
async fn ended(api: &Api, id: &str) -> Value {
    until("the action has not ended", LIMIT, async || {
        let action = read(api, id).await;
        if action["status"] == "running" { Err(action) } else { Ok(()) }
    })
    .await;
    read(api, id).await
}

/// Runs an action to its end, and returns the numbers of recipients that matched, were changed and were skipped.
async fn run(api: &Api, action: &str, filter: Value) -> [i64; 3] {
    let id = start(api, action, filter).await;
    let action = ended(api, &id).await;
    assert_eq!((&action["status"], &action["progress"]), (&json!("done"), &json!(1.0)), "{action}");
    ["matched", "changed", "skipped"].map(|count| action[count].as_i64().unwrap())
}

/// Returns the number of recipients that an action would match.
async fn count(api: &Api, action: &str, filter: Value) -> i64 {
    let response = api.post(PATH, &json!({"action": action, "filter": filter, "dry_run": true})).await;
    assert_eq!((response.status, &response.body["is_exact"]), (200, &json!(true)), "{}", response.body);
    response.body["matched"].as_i64().unwrap()
}

/// Lets every new action be leased by a process that has died, so that nobody works on it.
async fn lease_new_actions(app: &TestApp) {
    app.sql(
        "CREATE FUNCTION lease_new() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_new BEFORE INSERT ON message_actions FOR EACH ROW EXECUTE FUNCTION lease_new()",
    )
    .await;
}

/// Ends the leases of [`lease_new_actions`].
async fn end_leases(app: &TestApp) {
    app.sql("UPDATE message_actions SET leased_until = '-infinity'").await;
}
