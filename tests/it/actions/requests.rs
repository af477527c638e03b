//! Requests that are refused.

use serde_json::json;

use super::PATH;
use crate::support::app::TestApp;

#[tokio::test]
async fn empty_filter_is_refused_unless_all_are_meant() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    for body in [json!({"action": "cancel"}), json!({"action": "cancel", "filter": {}})] {
        let refused = app.post(PATH, &body).await;
        assert_eq!((refused.status, refused.faults()), (422, vec![("/filter", "required")]), "{body}");
    }
    let preview = app.post(PATH, &json!({"action": "cancel", "all": true, "dry_run": true})).await;
    assert_eq!((preview.status, &preview.body["matched"]), (200, &json!(1)));
    assert_eq!(app.get("/v1/actions").await.body["data"], json!([]), "a dry run is not stored");
}

#[tokio::test]
async fn every_fault_of_a_filter_is_reported() {
    let app = TestApp::start().await;
    let filter = json!({"stream": "none", "lane": "x", "status": "delivered", "colour": 1});
    let refused = app.post(PATH, &json!({"action": "cancel", "filter": filter})).await;
    let mut faults = refused.faults();
    faults.sort_unstable();
    let expected = [
        ("/filter/colour", "unknown_field"),
        ("/filter/lane", "invalid_value"),
        ("/filter/status", "invalid_value"),
        ("/filter/stream", "unknown_stream"),
    ];
    assert_eq!((refused.status, faults), (422, expected.to_vec()));
    let unknown = app.post(PATH, &json!({"action": "cancel", "filter": {"template": "none"}})).await;
    assert_eq!((unknown.status, unknown.faults()), (422, vec![("/filter/template", "unknown_template")]));
}
