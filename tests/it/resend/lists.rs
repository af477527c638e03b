//! Pages of messages: newest first, after or before an id.

use serde_json::{Value, json};

use super::{get, send, start};
use crate::support::app::TestApp;

/// Returns the subjects of a page, and whether there are more.
async fn page(app: &TestApp, query: &str) -> (Vec<String>, bool) {
    let list = get(app, &format!("/emails{query}")).await.ok();
    assert_eq!(list["object"], "list");
    let subject = |email: &Value| email["subject"].as_str().unwrap().to_owned();
    (list["data"].as_array().unwrap().iter().map(subject).collect(), list["has_more"].as_bool().unwrap())
}

#[tokio::test]
async fn messages_are_paged_in_both_directions() {
    let app = start().await;
    let mut ids = Vec::new();
    for n in 1..=5 {
        ids.push(send(&app, json!({"subject": n.to_string()})).await);
        app.clock.advance(chrono::TimeDelta::seconds(1));
    }
    let id = |n: usize| ids[n - 1].as_str();
    let of = |numbers: &[u32]| numbers.iter().map(u32::to_string).collect::<Vec<_>>();
    for (query, numbers, has_more) in [
        (String::new(), &[5, 4, 3, 2, 1][..], false),
        ("?limit=2".into(), &[5, 4], true),
        (format!("?limit=2&after={}", id(4)), &[3, 2], true),
        (format!("?limit=2&after={}", id(3)), &[2, 1], false),
        (format!("?after={}", id(1)), &[], false),
        (format!("?limit=2&before={}", id(2)), &[4, 3], true),
        (format!("?limit=2&before={}", id(3)), &[5, 4], false),
        (format!("?limit=3&before={}", id(4)), &[5], false),
        (format!("?before={}", id(5)), &[], false),
        ("?limit=2&unknown=1".into(), &[5, 4], true),
    ] {
        assert_eq!(page(&app, &query).await, (of(numbers), has_more), "{query}");
    }
    for query in [format!("?after={0}&before={0}", id(1)), "?limit=0".into(), "?limit=101".into(), "?after=x".into()] {
        assert_eq!(get(&app, &format!("/emails{query}")).await.error(), (422, "validation_error"), "{query}");
    }
}

#[tokio::test]
async fn entries_have_no_content() {
    let app = start().await;
    send(&app, json!({"tags": [{"name": "a", "value": "b"}]})).await;
    let list = get(&app, "/emails").await.ok();
    let entry = list["data"][0].as_object().unwrap();
    assert!(["html", "text", "tags"].iter().all(|name| !entry.contains_key(*name)), "{entry:?}");
    assert!(["cc", "bcc", "last_event", "message_id"].iter().all(|name| entry.contains_key(*name)), "{entry:?}");
}
