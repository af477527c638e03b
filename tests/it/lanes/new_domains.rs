//! Domains without earlier messages: with direct delivery each gets a new lane, and many are created at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sqlx::{PgConnection, Row as _};

use crate::support::app::TestApp;
use crate::support::client::{Sent, message};
use crate::support::dns::DnsServer;

const DOMAINS: usize = 40;

/// Starts a DNS server with the domains `d0.test`, `d1.test`, … and `seen.test`.
async fn dns() -> DnsServer {
    let dns = DnsServer::start().await;
    dns.add_address("seen.test", "127.0.0.1");
    for n in 0..DOMAINS {
        dns.add_address(&format!("d{n}.test"), "127.0.0.1");
    }
    dns
}

/// Repeats the condition until it is true.
async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    let mut condition = condition;
    let waiting = async {
        while !condition().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}

/// Waits until a message's recipients have these states.
async fn has_states(app: &TestApp, sent: &Sent, states: &[&str]) {
    until(&format!("{} {states:?}", sent.id), async || app.states(&sent.id).await == states).await;
}

async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(connection).await.unwrap().get(0)
}

async fn lanes(connection: &mut PgConnection) -> i64 {
    count(connection, "SELECT count(*) FROM lanes WHERE route = 'mx'").await
}

/// Inserts the lane of `d0.test`, as another replica does, without committing it.
async fn insert_uncommitted_lane(app: &TestApp) -> PgConnection {
    app.send(json!({"to": "ann@seen.test"})).await;
    let mut other = app.database.connect().await;
    sqlx::raw_sql(
        "BEGIN; INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT tenant_id, stream, route, 'd0.test', priority FROM lanes WHERE domain = 'seen.test'",
    )
    .execute(&mut other)
    .await
    .unwrap();
    other
}

/// Waits until another transaction waits for the lane.
async fn wait_for_blocked_insert(watcher: &mut PgConnection) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND query LIKE 'INSERT INTO lanes%'";
    until("a transaction waits for the lane", async || count(watcher, waiting).await > 0).await;
}

#[tokio::test]
async fn concurrent_first_messages_create_one_lane_per_domain() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (_other, other) = app.another_api().await;
    let all_addresses: Vec<String> = (0..DOMAINS).map(|n| format!("ann@d{n}.test")).collect();
    let sent = (0..4).flat_map(|_| [app.api(), &other]).map(|api| api.send(json!({"to": all_addresses})));
    let sent = join_all(sent).await;
    let mut connection = app.database.connect().await;
    let in_their_lanes = "SELECT count(*) FILTER (WHERE l.domain = split_part(r.address, '@', 2)) FROM queue q
                          JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id
                          JOIN lanes l ON l.id = q.lane_id";
    assert_eq!(count(&mut connection, in_their_lanes).await, 320);
    assert_eq!(lanes(&mut connection).await, 40);
    app.run_until_idle().await;
    for sent in &sent {
        has_states(&app, sent, &["delivered"; DOMAINS]).await;
    }
}

#[tokio::test]
async fn lane_created_by_another_replica_is_found() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (mut other, mut watcher) = (insert_uncommitted_lane(&app).await, app.database.connect().await);
    let made = async {
        wait_for_blocked_insert(&mut watcher).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (sent, ()) = tokio::join!(app.send(json!({"to": ["ann@d0.test", "ann@d1.test"]})), made);
    assert_eq!(lanes(&mut watcher).await, 3);
    app.run_until_idle().await;
    has_states(&app, &sent, &["delivered"; 2]).await;
}

#[tokio::test]
async fn uncommitted_lane_does_not_delay_other_lanes() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (mut other, mut watcher) = (insert_uncommitted_lane(&app).await, app.database.connect().await);
    let others = async {
        wait_for_blocked_insert(&mut watcher).await;
        app.send(json!({"to": ["ann@d1.test", "ann@seen.test"]})).await;
        wait_for_blocked_insert(&mut watcher).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (sent, ()) = tokio::join!(app.send(json!({"to": "ann@d0.test"})), others);
    app.run_until_idle().await;
    has_states(&app, &sent, &["delivered"]).await;
}

#[tokio::test]
async fn refused_lane_does_not_prevent_other_lanes() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    app.sql(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'no' USING ERRCODE = 'check_violation'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON lanes FOR EACH ROW WHEN (NEW.domain LIKE 'bad%') EXECUTE FUNCTION refuse()",
    )
    .await;
    let send = async |n: usize| {
        let to = if n.is_multiple_of(4) { format!("ann@bad{n}.test") } else { format!("ann@d{n}.test") };
        let response =
            app.request(Method::POST, "/v1/messages").json(&message(json!({"to": to}))).send().await.unwrap();
        (n, response.status().as_u16())
    };
    for (n, status) in join_all((0..DOMAINS).map(send)).await {
        assert_eq!(status, if n.is_multiple_of(4) { 500 } else { 202 }, "{n}");
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), DOMAINS * 3 / 4);
}

/// Waits until the claims have found that no recipient is due, so that all lanes are idle.
async fn wait_until_idle(connection: &mut PgConnection) {
    let active = "SELECT count(*) FROM lanes WHERE ready_at < 'infinity'";
    until("the lanes are idle", async || count(connection, active).await == 0).await;
}

/// Returns the number of rows that were leased by the transaction that stored them.
async fn handed_off(connection: &mut PgConnection) -> i64 {
    let rows = "SELECT count(*) FROM messages m JOIN queue q ON q.message_id = m.id WHERE q.lease IS NOT NULL AND q.xmin = m.xmin";
    count(connection, rows).await
}

#[tokio::test]
async fn first_message_to_a_domain_is_handed_off() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).with_all_roles().start().await;
    let mut connection = app.database.connect().await;
    // This message is claimed, and the claim tells the process the priority of the stream.
    let first = app.send(json!({"to": "ann@seen.test"})).await;
    has_states(&app, &first, &["delivered"]).await;
    wait_until_idle(&mut connection).await;
    let gate = app.smtp.dot().stalls();
    let sent = app.send(json!({"to": "ann@d0.test"})).await;
    gate.reached().await;
    assert_eq!(handed_off(&mut connection).await, 1);
    gate.open();
    has_states(&app, &sent, &["delivered"]).await;
}

#[tokio::test]
async fn paused_lane_does_not_prevent_handoff_in_other_lanes() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).with_all_roles().start().await;
    let mut connection = app.database.connect().await;
    let first = app.send(json!({"to": ["ann@seen.test", "ann@d0.test"]})).await;
    has_states(&app, &first, &["delivered"; 2]).await;
    wait_until_idle(&mut connection).await;
    app.sql("UPDATE lanes SET paused_at = now() WHERE domain = 'd0.test'").await;
    let gate = app.smtp.dot().stalls();
    let kept = app.send(json!({"to": "ann@d0.test"})).await;
    app.send(json!({"to": "ann@d1.test"})).await;
    gate.reached().await;
    assert_eq!(handed_off(&mut connection).await, 1);
    gate.open();
    assert_eq!(app.states(&kept.id).await, ["queued"]);
    app.sql("UPDATE lanes SET paused_at = NULL").await;
    has_states(&app, &kept, &["delivered"]).await;
}
