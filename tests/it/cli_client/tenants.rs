//! `postrider tenants`.

use postrider::domain::key::Scope;
use serde_json::{Value, json};

use super::{failure, output};
use crate::support::app::TestApp;

#[tokio::test]
async fn tenants_are_created_listed_suspended_and_resumed() {
    let app = TestApp::start().await;
    let id = output(&app, &["tenants", "create", "Acme", "--weight", "200", "--daily", "1000"]).await.trim().to_owned();
    let created = app.get(&format!("/v1/tenants/{id}")).await.body;
    assert_eq!((&created["weight"], &created["quota"]["recipients_per_day"]), (&json!(200), &json!(1_000)));
    let suspended = output(&app, &["tenants", "suspend", &id, "--reason", "unpaid"]).await;
    assert_eq!(suspended, format!("{id} is suspended\n"));
    let listed = output(&app, &["tenants"]).await;
    let lines: Vec<&str> = listed.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("TENANT") && lines[1].ends_with("unpaid"), "{listed}");
    assert_eq!(output(&app, &["tenants", "--status", "suspended"]).await.lines().count(), 2);
    assert_eq!(output(&app, &["tenants", "resume", &id]).await, format!("{id} is active\n"));
    let json: Value = serde_json::from_str(&output(&app, &["tenants", "--json"]).await).unwrap();
    assert_eq!(json, app.get("/v1/tenants?limit=100").await.body);

    let admin = app.with_scopes(&[Scope::Admin]).await;
    let (code, errors) = failure(&admin, &["tenants"]).await;
    assert!(code == 4 && errors.contains("lacks the scope `operator`"), "{errors}");
    assert_eq!(failure(&app, &["tenants", "resume", "ten_00000000000070008000000000000000"]).await.0, 3);
}
