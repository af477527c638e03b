//! `/v1/tenants`: creates, lists, reads and changes tenants.

use serde_json::json;

use super::{PATH, tenant};
use crate::support::app::TestApp;
use crate::support::client::Api;

const DEFAULT: &str = "ten_00000000000000000000000000000000";

#[tokio::test]
async fn new_tenant_can_send_and_receive_events() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    for stream in ["transactional", "bulk"] {
        let sent = acme.api.send(json!({"stream": stream})).await;
        app.run_until_idle().await;
        assert_eq!(acme.api.status(&sent.id).await, "relayed");
        assert_eq!(acme.api.events(&sent.id).await, ["accepted", "relayed"]);
    }
    let streams = async |api: &Api| {
        let streams = api.get("/v1/streams").await.body["data"].as_array().unwrap().clone();
        streams.iter().map(|stream| json!([stream["name"], stream["priority"], stream["weight"]])).collect::<Vec<_>>()
    };
    assert_eq!(streams(&acme.api).await, streams(app.api()).await, "the same as those of the default tenant");
    assert_eq!(acme.api.get("/v1/ledger").await.body["accepted"], 2);
}

#[tokio::test]
async fn tenant_is_created_read_and_changed() {
    let app = TestApp::start().await;
    let limits = json!({"name": "Acme", "weight": 200, "min_priority": 20, "rate": {"requests_per_second": 5},
                        "quota": {"recipients_per_day": 1_000}});
    let created = app.post(PATH, &limits).await;
    let id = created.body["id"].as_str().unwrap();
    assert_eq!(created.headers["location"], format!("{PATH}/{id}"));
    let usage = json!({"day": "2026-11-23", "recipients": 0, "remaining": 1_000, "resets_at": "2026-11-24T00:00:00Z"});
    let expected = json!({
        "id": id, "name": "Acme", "status": "active", "weight": 200, "min_priority": 20,
        "rate": {"requests_per_second": 5, "burst": 5},
        "quota": {"recipients_per_day": 1_000}, "suspension": null, "deletion": null,
        "created_at": "2026-11-23T12:00:00Z", "usage": usage,
    });
    assert_eq!((created.status, &created.body), (201, &expected));
    assert_eq!(app.get(&format!("{PATH}/{id}")).await.body, expected);

    let changed = app.patch(&format!("{PATH}/{id}"), &json!({"name": "Acme Inc", "rate": null, "quota": null})).await;
    assert_eq!(
        (changed.status, &changed.body["name"], &changed.body["weight"]),
        (200, &json!("Acme Inc"), &json!(200))
    );
    assert_eq!([&changed.body["rate"], &changed.body["quota"], &changed.body["usage"]], [&json!(null); 3]);
    assert_eq!(changed.body["min_priority"], 20);
    let unlimited = app.patch(&format!("{PATH}/{id}"), &json!({"min_priority": null})).await;
    assert_eq!((unlimited.status, &unlimited.body["min_priority"]), (200, &json!(null)));
    let invalid = app.patch(&format!("{PATH}/{id}"), &json!({"min_priority": 101})).await;
    assert_eq!((invalid.status, &invalid.body["errors"][0]["pointer"]), (422, &json!("/min_priority")));
}

#[tokio::test]
async fn names_are_unique() {
    let app = TestApp::start().await;
    let acme = tenant(&app, "Acme", json!({})).await;
    tenant(&app, "Other", json!({})).await;
    assert_eq!(app.post(PATH, &json!({"name": "Acme"})).await.problem(), (409, "tenant_exists"));
    let path = format!("{PATH}/{}", acme.id);
    assert_eq!(app.patch(&path, &json!({"name": "Other"})).await.problem(), (409, "tenant_exists"));
    assert_eq!(app.patch(&path, &json!({"name": "Acme"})).await.status, 200);
    assert_eq!(app.post(PATH, &json!({"name": "ten_1"})).await.faults(), [("/name", "invalid_value")]);
}

#[tokio::test]
async fn tenants_are_listed_in_pages_newest_first() {
    let app = TestApp::start().await;
    let mut ids = vec![DEFAULT.to_owned()];
    for name in ["one", "two", "three"] {
        app.clock.advance(crate::support::clock::seconds(1));
        ids.push(tenant(&app, name, json!({})).await.id);
    }
    ids.reverse();
    let (mut listed, mut query) = (Vec::new(), "limit=3".to_owned());
    loop {
        let page = app.get(&format!("{PATH}?{query}")).await.body;
        let of_page = page["data"].as_array().unwrap();
        listed.extend(of_page.iter().map(|tenant| tenant["id"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("limit=3&after={next}");
    }
    assert_eq!(listed, ids);
    app.post(&format!("{PATH}/{}/suspend", ids[0]), &json!({})).await;
    for (status, count) in [("active", 3), ("suspended", 1), ("deleting", 0), ("deleted", 0)] {
        let page = app.get(&format!("{PATH}?status={status}")).await.body;
        assert_eq!(page["data"].as_array().unwrap().len(), count, "{status}");
    }
    assert_eq!(app.get(&format!("{PATH}?status=gone")).await.faults(), [("status", "invalid_value")]);
}

#[tokio::test]
async fn unknown_tenants_are_not_found() {
    let app = TestApp::start().await;
    for id in ["ten_00000000000070008000000000000000", "ten_x", "key_00000000000000000000000000000000"] {
        assert_eq!(app.get(&format!("{PATH}/{id}")).await.status, 404, "{id}");
        assert_eq!(app.patch(&format!("{PATH}/{id}"), &json!({"weight": 1})).await.status, 404, "{id}");
        assert_eq!(app.delete(&format!("{PATH}/{id}")).await.status, 404, "{id}");
        for action in ["suspend", "resume"] {
            assert_eq!(app.post(&format!("{PATH}/{id}/{action}"), &json!({})).await.status, 404, "{id}");
        }
    }
}
