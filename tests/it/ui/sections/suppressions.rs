//! Imports and exports of suppressions.

use serde_json::json;

use super::admin;

#[tokio::test]
async fn import_reports_lines_that_are_wrong() {
    let (app, browser) = admin().await;
    let entries = "ann@example.test\r\nnobody\r\nbo@example.test\r\n";
    let page = browser.post("/ui/suppressions/import", &[("entries", entries)]).await;
    assert_eq!(page.status, 200, "{}", page.text);
    page.shows(&[
        "3 lines were read",
        "<dt>Added</dt><dd>2</dd>",
        "<dt>Refused</dt><dd>1</dd>",
        "data-label=\"Line\">2<",
    ]);
    page.shows(&["nobody"]);
    assert_eq!(app.get("/v1/suppressions").await.body["data"].as_array().unwrap().len(), 2);
    let again = browser.post("/ui/suppressions/import", &[("entries", "ann@example.test")]).await;
    again.shows(&["<dt>Unchanged</dt><dd>1</dd>"]);
    assert!(!again.text.contains(">ann@example.test</textarea>"), "{}", again.text);
}

#[tokio::test]
async fn exports_can_be_imported() {
    let (app, browser) = admin().await;
    app.post("/v1/suppressions", &json!({"address": "ann@example.test", "note": "by phone"})).await;
    for (format, kind) in [("csv", "text/csv"), ("ndjson", "application/x-ndjson")] {
        let export = browser.page(&format!("/ui/suppressions/export?format={format}")).await;
        assert!(export.header("content-type").starts_with(kind), "{format}");
        assert!(export.header("content-disposition").contains("attachment"), "{format}");
        assert!(export.text.contains("by phone"), "{}", export.text);
        let page = browser.post("/ui/suppressions/import", &[("entries", &export.text)]).await;
        page.shows(&["<dt>Unchanged</dt><dd>1</dd>", "<dt>Refused</dt><dd>0</dd>"]);
    }
}

#[tokio::test]
async fn import_with_unknown_columns_keeps_what_was_typed() {
    let (_app, browser) = admin().await;
    let page = browser.post("/ui/suppressions/import", &[("entries", "address,colour\r\nann@example.test,red")]).await;
    assert_eq!(page.status, 422, "{}", page.text);
    page.shows(&["role=\"alert\"", "address,colour"]);
}
