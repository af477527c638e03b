//! Actions of tenants and test keys: each changes only its own messages, tenants take turns, and suspended ones wait.

use chrono::{DateTime, TimeDelta, Utc};
use postrider::db::messages::actions::jobs;
use postrider::domain::id::ActionId;
use serde_json::json;

use super::cancel::expanded;
use super::{LIMIT, PATH, count, end_leases, ended, lease_new_actions, read, run, start};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::until::until;
use crate::tenants::{Tenant, tenant};

/// Starts an action that the processes of the app do not find: the statement leases it until a time in the future.
async fn leased_until(app: &TestApp, api: &Api, statement: &'static str) -> String {
    let id = start(api, "cancel", json!({"stream": "transactional"})).await;
    app.sql(statement).await;
    id
}

/// Leases the action whose turn it is, at a later time than that of the app.
async fn lease_next(app: &TestApp, hour: i64) -> Option<String> {
    let now: DateTime<Utc> = "2026-12-02T00:00:00Z".parse().unwrap();
    let row = jobs::lease(&app.db, now, now + TimeDelta::days(1) + TimeDelta::hours(hour), false).await.unwrap();
    row.map(|row| ActionId(row.id).to_string())
}

#[tokio::test]
async fn action_changes_only_messages_of_its_tenant() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await.api;
    let test = app.with_test_key().await;
    let apis = [app.api(), &acme, &test];
    let mut sent = Vec::new();
    for api in apis {
        sent.push(api.send(json!({"scheduled_at": app.clock.text_in(TimeDelta::hours(1))})).await.id);
    }
    let filter = json!({"stream": "transactional"});
    for (index, api) in apis.into_iter().enumerate() {
        assert_eq!(count(api, "cancel", filter.clone()).await, 1);
        assert_eq!(run(api, "cancel", filter.clone()).await, [1, 1, 0]);
        for (at, (api, id)) in apis.into_iter().zip(&sent).enumerate() {
            assert_eq!(api.status(id).await, if at <= index { "canceled" } else { "scheduled" }, "{index} {at}");
        }
    }
    // Nobody sees the actions of the others.
    for api in apis {
        let listed = api.get("/v1/actions").await.body;
        assert_eq!(listed["data"].as_array().map(Vec::len), Some(1), "{listed}");
        let id = listed["data"][0]["id"].as_str().unwrap();
        for other in apis.into_iter().filter(|other| other.key != api.key) {
            assert_eq!(other.get(&format!("/v1/actions/{id}")).await.status, 404);
            assert_eq!(other.post(&format!("/v1/actions/{id}/cancel"), &json!({})).await.status, 404);
        }
    }
}

#[tokio::test]
async fn tenants_take_turns_however_many_actions_they_have() {
    let app = TestApp::start().await;
    lease_new_actions(&app).await;
    let (many, few) = (tenant(&app, "many", json!({})).await.api, tenant(&app, "few", json!({})).await.api);
    let mut started = Vec::new();
    for (api, statement) in [
        (&many, "UPDATE message_actions SET leased_until = '2026-12-01 00:00Z' WHERE leased_until = 'infinity'"),
        (&many, "UPDATE message_actions SET leased_until = '2026-12-01 01:00Z' WHERE leased_until = 'infinity'"),
        (&few, "UPDATE message_actions SET leased_until = '2026-12-01 02:00Z' WHERE leased_until = 'infinity'"),
    ] {
        started.push(leased_until(&app, api, statement).await);
    }
    let mut order = Vec::new();
    for hour in 0..3 {
        order.extend(lease_next(&app, hour).await);
    }
    assert_eq!(order, [&*started[0], &*started[2], &*started[1]]);
    end_leases(&app).await;
    for (api, id) in [(&many, &started[0]), (&many, &started[1]), (&few, &started[2])] {
        ended(api, id).await;
    }
}

#[tokio::test]
async fn action_of_a_suspended_tenant_waits() {
    let app = TestApp::start().await;
    lease_new_actions(&app).await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    let sent = acme.send(json!({})).await.id;
    let open = "UPDATE message_actions SET leased_until = '2026-12-01 00:00Z'";
    let action = leased_until(&app, &acme, open).await;
    assert_eq!(app.post(&format!("/v1/tenants/{id}/suspend"), &json!({})).await.status, 200);
    assert_eq!(lease_next(&app, 0).await, None);
    assert_eq!(read(&acme, &action).await["status"], "running");
    let refused = acme.post(PATH, &json!({"action": "cancel", "all": true})).await;
    assert_eq!(refused.problem(), (403, "tenant_suspended"));
    assert_eq!(app.post(&format!("/v1/tenants/{id}/resume"), &json!({})).await.status, 200);
    end_leases(&app).await;
    assert_eq!(ended(&acme, &action).await["changed"], 1);
    assert_eq!(acme.status(&sent).await, "canceled");
}

#[tokio::test]
async fn suspension_does_not_end_the_wait_for_bulks() {
    let app = TestApp::start().await;
    app.sql(
        "CREATE FUNCTION lease_bulk() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.leased_until := 'infinity'; RETURN NEW; END $$;
         CREATE TRIGGER lease_bulk BEFORE INSERT ON bulks FOR EACH ROW EXECUTE FUNCTION lease_bulk()",
    )
    .await;
    let Tenant { id, api: acme } = tenant(&app, "Acme", json!({})).await;
    let bulk = json!({"from": "news@acme.test", "subject": "News", "text": "Hi",
                      "recipients": [{"to": "ann@example.test"}, {"to": "bo@example.test"}]});
    assert_eq!(acme.post("/v1/messages/bulk", &bulk).await.status, 202);
    lease_new_actions(&app).await;
    let action = start(&acme, "cancel", json!({"stream": "bulk"})).await;
    assert_eq!(app.post(&format!("/v1/tenants/{id}/suspend"), &json!({})).await.status, 200);
    app.clock.advance(TimeDelta::hours(1));
    assert_eq!(app.post(&format!("/v1/tenants/{id}/resume"), &json!({})).await.status, 200);
    end_leases(&app).await;
    let mut connection = app.database.connect().await;
    until("the queue has not been examined", LIMIT, async || {
        let waits =
            "SELECT status = 'running' AND leased_until = created_at + interval '1 hour 1 second' FROM message_actions";
        let waits: bool = sqlx::query_scalar(waits).fetch_one(&mut connection).await.unwrap();
        if waits { Ok(()) } else { Err(waits) }
    })
    .await;
    app.sql("UPDATE bulks SET leased_until = '-infinity'").await;
    expanded(&app).await;
    app.clock.advance(TimeDelta::seconds(2));
    assert_eq!(ended(&acme, &action).await["changed"], 2);
}
