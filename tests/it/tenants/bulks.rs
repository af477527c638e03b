//! Bulks of several tenants become messages in turn, and those of a suspended tenant wait.

use chrono::{DateTime, Utc};
use postrider::db::messages::bulks::expand;
use serde_json::json;

use super::{PATH, act, tenant};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::until::until;

/// Creates a bulk to one recipient that the expanders of the app do not find: it is leased until a time in the future.
async fn leased(app: &TestApp, api: &Api, until: &'static str) -> String {
    app.sql(
        "CREATE OR REPLACE FUNCTION lease_new() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE OR REPLACE TRIGGER lease_new BEFORE INSERT ON bulks FOR EACH ROW EXECUTE FUNCTION lease_new()",
    )
    .await;
    let body = json!({"from": "a@acme.test", "subject": "", "text": "Hi", "recipients": [{"to": "bo@example.test"}]});
    let id = api.post("/v1/messages/bulk", &body).await.body["id"].as_str().unwrap().to_owned();
    app.sql(until).await;
    id
}

fn at(time: &str) -> DateTime<Utc> {
    time.parse().unwrap()
}

#[tokio::test]
async fn tenants_take_turns_however_many_bulks_they_have() {
    let app = TestApp::start().await;
    let (many, few) = (tenant(&app, "many", json!({})).await, tenant(&app, "few", json!({})).await);
    let mut expected = Vec::new();
    for (api, statement) in [
        (&many.api, "UPDATE bulks SET leased_until = '2026-12-01 00:00Z' WHERE leased_until = 'infinity'"),
        (&many.api, "UPDATE bulks SET leased_until = '2026-12-01 01:00Z' WHERE leased_until = 'infinity'"),
        (&many.api, "UPDATE bulks SET leased_until = '2026-12-01 02:00Z' WHERE leased_until = 'infinity'"),
        (&few.api, "UPDATE bulks SET leased_until = '2026-12-01 03:00Z' WHERE leased_until = 'infinity'"),
    ] {
        expected.push(leased(&app, api, statement).await);
    }
    let mut order = Vec::new();
    for hour in 0..4 {
        // A later time than that of the app, so that only this test leases.
        let (now, until) = (at("2026-12-02T00:00:00Z"), at("2026-12-03T00:00:00Z") + chrono::TimeDelta::hours(hour));
        let bulk = expand::lease(&app.db, now, until).await.unwrap().expect("a bulk");
        order.push(postrider::domain::id::BulkId(bulk.id).to_string());
    }
    let [first, second, third, other] = expected.try_into().unwrap();
    assert_eq!(order, [first, other, second, third]);
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
    all_expanded(&app).await;
}

async fn all_expanded(app: &TestApp) {
    let mut connection = app.database.connect().await;
    until("the bulks are messages", std::time::Duration::from_secs(20), async || {
        let waiting = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM bulk_recipients");
        let count = waiting.fetch_one(&mut connection).await.unwrap();
        if count == 0 { Ok(()) } else { Err(count) }
    })
    .await;
}

#[tokio::test]
async fn bulk_of_a_suspended_tenant_waits() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    let open = "UPDATE bulks SET leased_until = '2026-12-01 00:00Z' WHERE leased_until = 'infinity'";
    let bulk = leased(&app, &acme.api, open).await;
    act(&app, &acme.id, "suspend").await;
    let (now, until) = (at("2026-12-02T00:00:00Z"), at("2026-12-03T00:00:00Z"));
    assert!(expand::lease(&app.db, now, until).await.unwrap().is_none());
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
    assert_eq!(acme.api.get(&format!("/v1/messages?bulk={bulk}")).await.body["data"], json!([]));
    act(&app, &acme.id, "resume").await;
    all_expanded(&app).await;
    assert_eq!(app.get(PATH).await.status, 200);
    app.run_until_idle().await;
    assert_eq!(app.smtp.messages().len(), 1);
}
