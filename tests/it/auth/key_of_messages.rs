//! The API key that a message was sent with: in messages, lists and events, and as a filter.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::client::{Api, message};
use crate::support::clock::seconds;
use crate::support::until::until;

async fn create(app: &TestApp, name: &str) -> (String, Api) {
    let created = app.post("/v1/keys", &json!({"name": name})).await.body;
    (created["id"].as_str().unwrap().to_owned(), app.with_key(created["secret"].as_str().unwrap()))
}

async fn ids(api: &Api, query: &str) -> Vec<String> {
    let page = api.get(&format!("/v1/messages?{query}")).await;
    assert_eq!(page.status, 200, "{}", page.body);
    let id = |message: &Value| message["id"].as_str().unwrap().to_owned();
    page.body["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn message_shows_its_key_and_can_be_found_by_it() {
    let app = TestApp::start().await;
    let ((shop_id, shop), (news_id, news)) = (create(&app, "shop").await, create(&app, "news").await);
    let first = shop.send(json!({})).await.id;
    app.clock.advance(seconds(1));
    let other = news.send(json!({})).await.id;
    app.clock.advance(seconds(1));
    let batch = shop.post("/v1/messages/batch", &json!([message(json!({"subject": "2"}))])).await.body;
    let second = batch["data"][0]["id"].as_str().unwrap().to_owned();

    assert_eq!(app.message(&first).await["key_id"], shop_id);
    assert_eq!(ids(&app, &format!("key={shop_id}")).await, [second, first.clone()]);
    assert_eq!(ids(&app, &format!("key={news_id}&stream=transactional")).await, [other]);
    assert!(ids(&app, &format!("key={shop_id}&subject=nothing")).await.is_empty());
    let listed = app.get(&format!("/v1/messages?key={shop_id}")).await.body;
    assert_eq!(listed["data"][0]["key_id"], shop_id);
    assert!(ids(&app, "key=key_00000000000070008000000000000000").await.is_empty());
    let invalid = app.get("/v1/messages?key=shop").await;
    assert_eq!((invalid.status, invalid.faults()), (422, vec![("key", "invalid_value")]));

    app.run_until_idle().await;
    let events = app.event_list(&first).await;
    assert!(events.len() >= 2 && events.iter().all(|event| event["data"]["key_id"] == shop_id), "{events:?}");
}

#[tokio::test]
async fn messages_of_a_bulk_have_its_key() {
    let app = TestApp::start().await;
    let (id, shop) = create(&app, "shop").await;
    let recipients = json!([{"to": "ann@example.test"}, {"to": "bo@example.test"}]);
    let bulk = json!({"from": "news@acme.test", "subject": "News", "text": "Hi", "recipients": recipients});
    assert_eq!(shop.post("/v1/messages/bulk", &bulk).await.status, 202);
    until("the bulk has messages", Duration::from_secs(20), async || {
        let found = ids(&app, &format!("key={id}")).await.len();
        if found == 2 { Ok(()) } else { Err(format!("{found} messages")) }
    })
    .await;
}
