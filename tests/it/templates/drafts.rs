//! Drafts are created, listed, read, changed and deleted, by id or alias.

use postrider::db::templates;
use postrider::domain::id::TenantId;
use serde_json::{Value, json};

use super::{create, sorted};
use crate::support::app::TestApp;
use crate::support::clock::minutes;

#[tokio::test]
async fn template_is_created_read_changed_and_deleted() {
    let app = TestApp::start().await;
    let body = json!({
        "name": "Invoice", "alias": "invoice", "syntax": "vars", "subject": "Invoice {{NUMBER}}", "text": "",
        "from": "billing@acme.test", "reply_to": ["help@acme.test"], "variables": [{"key": "NUMBER", "type": "string"}],
    });
    let created = app.post("/v1/templates", &body).await;
    let id = created.body["id"].as_str().unwrap().to_owned();
    assert_eq!((created.status, created.headers["location"].to_str().unwrap()), (201, &*format!("/v1/templates/{id}")));
    assert_eq!(
        created.body,
        json!({
            "id": id, "alias": "invoice", "name": "Invoice", "created_at": "2026-11-23T12:00:00Z",
            "updated_at": "2026-11-23T12:00:00Z", "revision": 1, "version": null, "published_at": null, "has_unpublished_changes": false,
            "syntax": "vars", "format": "html", "subject": "Invoice {{NUMBER}}", "html": null, "text": "",
            "from": "billing@acme.test", "reply_to": ["help@acme.test"], "layout": null,
            "variables": [{"key": "NUMBER", "type": "string", "required": true, "default": null, "max_length": null}],
        })
    );
    assert_eq!(app.get("/v1/templates/invoice").await.body, created.body);

    app.clock.advance(minutes(1));
    let change =
        json!({"alias": "bill", "html": "<p>{{{NUMBER}}}</p>", "text": null, "reply_to": null, "variables": null});
    let changed = app.patch("/v1/templates/invoice", &change).await;
    assert_eq!(changed.status, 200, "{}", changed.body);
    assert_eq!((&changed.body["alias"], &changed.body["subject"]), (&json!("bill"), &json!("Invoice {{NUMBER}}")));
    assert_eq!((&changed.body["html"], &changed.body["text"]), (&json!("<p>{{{NUMBER}}}</p>"), &Value::Null));
    assert_eq!((&changed.body["reply_to"], &changed.body["variables"]), (&Value::Null, &json!([])));
    assert_eq!(changed.body["updated_at"], "2026-11-23T12:01:00Z");
    assert_eq!(app.get(&format!("/v1/templates/{id}")).await.body, changed.body);
    assert_eq!(app.get("/v1/templates/invoice").await.status, 404);

    assert_eq!(app.delete("/v1/templates/bill").await.status, 204);
    for gone in [app.get(&format!("/v1/templates/{id}")).await, app.delete("/v1/templates/bill").await] {
        assert_eq!(gone.problem(), (404, "not_found"));
    }
}

#[tokio::test]
async fn change_of_an_earlier_revision_is_refused() {
    let app = TestApp::start().await;
    let template = create(&app, json!({"subject": "One"})).await;
    let path = format!("/v1/templates/{}", template["id"].as_str().unwrap());
    let change = |subject: &str, revision: i32| json!({"subject": subject, "revision": revision});
    let changed = app.patch(&path, &change("Two", 1)).await;
    assert_eq!((changed.status, &changed.body["revision"]), (200, &json!(2)));
    let refused = app.patch(&path, &change("Three", 1)).await;
    assert_eq!(refused.problem(), (409, "template_changed"));
    assert_eq!(app.get(&path).await.body["subject"], "Two");
    // Of two changes at the same moment, one is made.
    let (four, five) = (change("Four", 2), change("Five", 2));
    let (one, two) = tokio::join!(app.patch(&path, &four), app.patch(&path, &five));
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    for revision in [json!(0), json!("2"), json!(null)] {
        assert_eq!(app.patch(&path, &json!({"revision": revision})).await.status, 422);
    }
}

#[tokio::test]
async fn alias_belongs_to_one_template() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "one"})).await;
    let two = create(&app, json!({"alias": "two"})).await["id"].as_str().unwrap().to_owned();
    let taken = app.post("/v1/templates", &json!({"name": "Again", "alias": "one"})).await;
    assert_eq!(taken.problem(), (409, "template_exists"));
    let taken = app.patch(&format!("/v1/templates/{two}"), &json!({"alias": "one"})).await;
    assert_eq!(taken.problem(), (409, "template_exists"));
    assert_eq!(app.patch("/v1/templates/one", &json!({"alias": null})).await.status, 200);
    assert_eq!(app.patch("/v1/templates/two", &json!({"alias": "one"})).await.body["id"], json!(two));
}

#[tokio::test]
async fn templates_are_listed_newest_first() {
    let app = TestApp::start().await;
    for n in 0..5 {
        create(&app, json!({"alias": format!("t{n}"), "html": "<p>long</p>"})).await;
        app.clock.advance(minutes(1));
    }
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let page = app.get(&format!("/v1/templates?limit=2{next}")).await.body;
        for template in page["data"].as_array().unwrap() {
            assert!(template.get("html").is_none(), "{template}");
            seen.push(template["alias"].as_str().unwrap().to_owned());
        }
        let Some(cursor) = page["next"].as_str() else { break };
        next = format!("&after={cursor}");
    }
    assert_eq!(seen, ["t4", "t3", "t2", "t1", "t0"]);
    assert_eq!(app.get("/v1/templates?after=x").await.faults(), [("after", "invalid_value")]);
}

#[tokio::test]
async fn every_fault_of_a_draft_is_reported() {
    let app = TestApp::start().await;
    let body = json!({
        "alias": "validate", "syntax": "erb", "subject": "a\r\nBcc: x@y.test", "html": "\u{0}", "from": "nobody",
        "variables": [{"key": "a", "type": "date"}], "colour": "red",
    });
    let refused = app.post("/v1/templates", &body).await;
    let expected = [
        ("/alias", "invalid_value"),
        ("/colour", "unknown_field"),
        ("/from", "invalid_address"),
        ("/html", "control_character"),
        ("/name", "required"),
        ("/subject", "control_character"),
        ("/syntax", "invalid_value"),
        ("/variables/0/type", "invalid_value"),
    ];
    assert_eq!((refused.status, sorted(refused.faults())), (422, expected.to_vec()));

    create(&app, json!({"alias": "a"})).await;
    for layout in ["missing", "tpl_00000000000070008000000000000000"] {
        let refused = app.patch("/v1/templates/a", &json!({"layout": layout})).await;
        assert_eq!(refused.faults(), [("/layout", "unknown_template")]);
    }
    assert_eq!(app.patch("/v1/templates/a", &json!({"layout": "a"})).await.faults(), [("/layout", "invalid_value")]);
    for path in ["tpl_1", "a%00", "a%2Fb", "1"] {
        assert_eq!(app.get(&format!("/v1/templates/{path}")).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn concurrent_changes_are_all_applied() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "a"})).await;
    let changes = [json!({"subject": "s"}), json!({"html": "h"}), json!({"text": "t"}), json!({"name": "n"})];
    let requests = changes.iter().map(|change| app.patch("/v1/templates/a", change));
    for response in futures_util::future::join_all(requests).await {
        assert_eq!(response.status, 200, "{}", response.body);
    }
    let template = app.get("/v1/templates/a").await.body;
    let fields = ["subject", "html", "text", "name"].map(|field| template[field].as_str().unwrap());
    assert_eq!(fields, ["s", "h", "t", "n"]);
}

#[tokio::test]
async fn template_of_another_tenant_does_not_exist() {
    let app = TestApp::start().await;
    create(&app, json!({"alias": "a"})).await;
    let other = TenantId(uuid::Uuid::from_u128(1));
    let name = "a".parse().unwrap();
    assert!(templates::get(&app.db, other, &name).await.unwrap().is_none());
    assert!(templates::page(&app.db, other, None, 10).await.unwrap().is_empty());
    assert_eq!(templates::find(&app.db, other, &name).await.unwrap(), None);
    assert!(templates::get(&app.db, TenantId::DEFAULT, &name).await.unwrap().is_some());
}
