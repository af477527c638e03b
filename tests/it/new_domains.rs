//! Domains that nobody has sent to before: each has a lane of its own where mail goes straight to it, and many come at a time.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use sqlx::{PgConnection, Row as _};

use crate::support::app::TestApp;
use crate::support::client::Sent;
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

async fn is(app: &TestApp, mail: &Sent, states: &[&str]) {
    let reached = async {
        while app.states(&mail.id).await != states {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), reached).await.unwrap_or_else(|_| panic!("{} {states:?}", mail.id));
}

async fn count(connection: &mut PgConnection, query: &'static str) -> i64 {
    sqlx::query(query).fetch_one(connection).await.unwrap().get(0)
}

/// Waits until somebody waits for a lock in this database.
async fn is_waited_for(connection: &mut PgConnection) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while count(connection, waiting).await == 0 {
        tokio::task::yield_now().await;
    }
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
    assert_eq!(count(&mut connection, "SELECT count(*) FROM lanes WHERE route = 'mx'").await, 40);
    let apart = "SELECT count(DISTINCT (q.lane_id, split_part(r.address, '@', 2))) FROM queue q
                 JOIN recipients r ON r.message_id = q.message_id AND r.id = q.recipient_id
                 JOIN lanes l ON l.id = q.lane_id AND l.domain = split_part(r.address, '@', 2)";
    assert_eq!(count(&mut connection, apart).await, 40, "each waits in the lane of its domain");
    app.run_until_idle().await;
    for mail in &mails {
        is(&app, mail, &["delivered"; DOMAINS]).await;
    }
}

#[tokio::test]
async fn a_lane_that_another_replica_is_making_is_found() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).start().await;
    app.send(json!({"to": "ann@seen.test"})).await;
    let mut other = app.database.connect().await;
    sqlx::raw_sql(
        "BEGIN; INSERT INTO lanes (tenant_id, stream, route, domain, priority)
         SELECT tenant_id, stream, route, 'd0.test', priority FROM lanes WHERE domain = 'seen.test'",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let mut watcher = app.database.connect().await;
    let made = async {
        is_waited_for(&mut watcher).await;
        sqlx::raw_sql("COMMIT").execute(&mut other).await.unwrap();
    };
    let (mail, ()) = tokio::join!(app.send(json!({"to": ["ann@d0.test", "ann@d1.test"]})), made);
    assert_eq!(count(&mut watcher, "SELECT count(*) FROM lanes WHERE route = 'mx'").await, 3);
    app.run_until_idle().await;
    is(&app, &mail, &["delivered"; 2]).await;
}

#[tokio::test]
async fn the_first_mail_to_a_domain_is_handed_over_like_any_other() {
    let dns = dns().await;
    let app = TestApp::builder().direct(&dns).whole().start().await;
    let mut connection = app.database.connect().await;
    // It is claimed: by that the process learns how urgent the stream is.
    let first = app.send(json!({"to": "ann@seen.test"})).await;
    is(&app, &first, &["delivered"]).await;
    while count(&mut connection, "SELECT count(*) FROM lanes WHERE ready_at < 'infinity'").await > 0 {
        tokio::task::yield_now().await;
    }
    let gate = app.smtp.dot().stalls();
    let mail = app.send(json!({"to": "ann@d0.test"})).await;
    gate.reached().await;
    let handed_over = "SELECT count(*) FROM messages m JOIN queue q ON q.message_id = m.id
                       WHERE q.lease IS NOT NULL AND q.xmin = m.xmin";
    assert_eq!(count(&mut connection, handed_over).await, 1);
    assert_eq!(
        count(&mut connection, "SELECT count(*) FROM lanes WHERE ready_at < 'infinity'").await,
        0,
        "nobody claims"
    );
    gate.open();
    is(&app, &mail, &["delivered"]).await;
}
