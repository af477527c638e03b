//! Domains without earlier messages: with direct delivery each gets a new lane, and many come at the same time.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::json;
use sqlx::{PgConnection, Row as _};

use crate::support::app::TestApp;
use crate::support::client::{Sent, message};
use crate::support::dns::DnsServer;

const DOMAINS: usize = 40;

/// A DNS that knows the domains `d0.test`, `d1.test`, … and `seen.test`.
async fn dns() -> DnsServer {
    let dns = DnsServer::start().await;
    dns.has_address("seen.test", "127.0.0.1");
    for n in 0..DOMAINS {
        dns.has_address(&format!("d{n}.test"), "127.0.0.1");
    }
    dns
}

/// Repeats the query until it returns true.
async fn until(what: &str, is_so: impl AsyncFnMut() -> bool) {
    let mut is_so = is_so;
    let asking = async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

async fn is(app: &TestApp, mail: &Sent, states: &[&str]) {
    until(&format!("{} {states:?}", mail.id), async || app.states(&mail.id).await == states).await;
}

async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(connection).await.unwrap().get(0)
}

async fn lanes(connection: &mut PgConnection) -> i64 {
    count(connection, "SELECT count(*) FROM lanes WHERE route = 'mx'").await
}

/// Inserts the lane of `d0.test`, as another replica does, without committing.
async fn makes_a_lane(app: &TestApp) -> PgConnection {
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

/// Waits until another transaction waits for that.
async fn is_waited_for(watcher: &mut PgConnection) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND query LIKE 'INSERT INTO lanes%'";
    until("a transaction waits for the lane", async || count(watcher, waiting).await > 0).await;
}

#[tokio::test]
async fn a_domain_has_one_lane_however_many_send_to_it_first() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (_other, other) = app.another_api().await;
    let everybody: Vec<String> = (0..DOMAINS).map(|n| format!("ann@d{n}.test")).collect();
    let mails = (0..4).flat_map(|_| [app.api(), &other]).map(|api| api.send(json!({"to": everybody})));
    let mails = join_all(mails).await;
    let mut connection = app.database.connect().await;
    let in_their_lanes = "SELECT count(*) FILTER (WHERE l.domain = split_part(r.address, '@', 2)) FROM queue q
                          JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id
                          JOIN lanes l ON l.id = q.lane_id";
    assert_eq!(count(&mut connection, in_their_lanes).await, 320);
    assert_eq!(lanes(&mut connection).await, 40);
    app.run_until_idle().await;
    for mail in &mails {
        is(&app, mail, &["delivered"; DOMAINS]).await;
    }
}

#[tokio::test]
async fn a_lane_that_another_replica_is_making_is_found() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (mut other, mut watcher) = (makes_a_lane(&app).await, app.database.connect().await);
    let made = async {
        is_waited_for(&mut watcher).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (mail, ()) = tokio::join!(app.send(json!({"to": ["ann@d0.test", "ann@d1.test"]})), made);
    assert_eq!(lanes(&mut watcher).await, 3);
    app.run_until_idle().await;
    is(&app, &mail, &["delivered"; 2]).await;
}

#[tokio::test]
async fn while_somebody_makes_a_lane_others_are_found_and_made() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    let (mut other, mut watcher) = (makes_a_lane(&app).await, app.database.connect().await);
    let others = async {
        is_waited_for(&mut watcher).await;
        app.send(json!({"to": ["ann@d1.test", "ann@seen.test"]})).await;
        is_waited_for(&mut watcher).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await.unwrap();
    };
    let (mail, ()) = tokio::join!(app.send(json!({"to": "ann@d0.test"})), others);
    app.run_until_idle().await;
    is(&app, &mail, &["delivered"]).await;
}

#[tokio::test]
async fn a_lane_that_postgres_refuses_keeps_no_other_from_being_made() {
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
        let answer = app.request(Method::POST, "/v1/messages").json(&message(json!({"to": to}))).send().await.unwrap();
        (n, answer.status().as_u16())
    };
    for (n, status) in join_all((0..DOMAINS).map(send)).await {
        assert_eq!(status, if n.is_multiple_of(4) { 500 } else { 202 }, "{n}");
    }
    app.run_until_idle().await;
    assert_eq!(app.smtp.mails().len(), DOMAINS * 3 / 4);
}

/// Waits until the last claim has found that it leased everything.
async fn rested(connection: &mut PgConnection) {
    let awake = "SELECT count(*) FROM lanes WHERE ready_at < 'infinity'";
    until("the lanes rest", async || count(connection, awake).await == 0).await;
}

/// Rows that are leased by the transaction that stored them.
async fn handed_over(connection: &mut PgConnection) -> i64 {
    let rows = "SELECT count(*) FROM messages m JOIN queue q ON q.message_id = m.id WHERE q.lease IS NOT NULL AND q.xmin = m.xmin";
    count(connection, rows).await
}

#[tokio::test]
async fn the_first_mail_to_a_domain_is_handed_over_like_any_other() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).whole().start().await;
    let mut connection = app.database.connect().await;
    // It is claimed, by which the process learns the priority of the stream.
    let first = app.send(json!({"to": "ann@seen.test"})).await;
    is(&app, &first, &["delivered"]).await;
    rested(&mut connection).await;
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"to": "ann@d0.test"})).await;
    gate.reached().await;
    assert_eq!(handed_over(&mut connection).await, 1);
    gate.open();
    is(&app, &mail, &["delivered"]).await;
}

#[tokio::test]
async fn paused_lane_does_not_prevent_handoff_in_other_lanes() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).whole().start().await;
    let mut connection = app.database.connect().await;
    let first = app.send(json!({"to": ["ann@seen.test", "ann@d0.test"]})).await;
    is(&app, &first, &["delivered"; 2]).await;
    rested(&mut connection).await;
    app.sql("UPDATE lanes SET paused_at = now() WHERE domain = 'd0.test'").await;
    let gate = app.smtp.dot().stalls();
    let kept = app.send(json!({"to": "ann@d0.test"})).await;
    app.send(json!({"to": "ann@d1.test"})).await;
    gate.reached().await;
    assert_eq!(handed_over(&mut connection).await, 1);
    gate.open();
    assert_eq!(app.states(&kept.id).await, ["queued"]);
    app.sql("UPDATE lanes SET paused_at = NULL").await;
    is(&app, &kept, &["delivered"]).await;
}
