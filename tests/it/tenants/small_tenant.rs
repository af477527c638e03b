//! The list of a tenant with few messages reads only its own, however many other tenants have.

use serde_json::json;

use super::tenant;
use crate::support::app::TestApp;
use crate::support::postgres::blocks_read;

/// Adds 50,000 messages of the default tenant, which are newer than all others, without statistics.
const MANY_MESSAGES: &str = "
    ALTER TABLE messages_20261123 SET (autovacuum_enabled = false);
    INSERT INTO messages (tenant_id, id, content_id, created_at, stream, from_address, reply_to, subject, tags, metadata,
                          on_uncertain, size)
    SELECT '00000000-0000-0000-0000-000000000000', uuid_floor(created_at + n * interval '1 ms'), content_id, created_at,
           'bulk', from_address, reply_to, 'seeded', tags, metadata, on_uncertain, size
    FROM (SELECT * FROM messages ORDER BY id DESC LIMIT 1) m, generate_series(1, 50000) n";

#[tokio::test]
async fn list_of_a_small_tenant_reads_its_own_messages() {
    let app = TestApp::start().await;
    let small = tenant(&app, "small", json!({})).await;
    let mut ids = Vec::new();
    for stream in ["bulk", "transactional", "bulk"] {
        let tags = json!([{"name": "kind", "value": stream}]);
        ids.push(small.api.send(json!({"stream": stream, "tags": tags})).await.id);
        // The ids of one millisecond are in no order.
        app.clock.advance(chrono::TimeDelta::seconds(1));
    }
    app.run_until_idle().await;
    ids.reverse();
    app.sql(MANY_MESSAGES).await;
    // A restored feed continues at a higher number.
    app.sql("UPDATE event_counters SET last_seq = last_seq + 10000000000 WHERE last_seq > 0").await;
    ids.insert(0, small.api.send(json!({"stream": "bulk"})).await.id);
    app.run_until_idle().await;
    for (query, expected) in [
        ("limit=2", &ids[..2]),
        (&format!("limit=2&after={}", ids[1]), &ids[2..]),
        ("stream=transactional", &ids[2..3]),
        ("tag=kind:transactional", &ids[2..3]),
        ("tag=kind:other", &[]),
        ("status=relayed", &ids[..]),
        ("status=bounced", &[]),
        ("subject=seeded", &[]),
    ] {
        let before = blocks_read(&app, "messages").await;
        let found = small.api.get(&format!("/v1/messages?{query}")).await;
        assert_eq!(found.status, 200, "{query}: {}", found.body);
        let found: Vec<&str> = found.body["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
        assert_eq!(found, expected, "{query}");
        // The primary key of the messages of all tenants has hundreds of blocks.
        let read = blocks_read(&app, "messages").await - before;
        assert!(read < 80, "{query}: {read} blocks");
    }
    app.sql("DELETE FROM messages WHERE subject = 'seeded'").await;
}

#[tokio::test]
async fn list_of_a_new_tenant_is_empty() {
    let app = TestApp::start().await;
    let (new, other) = (tenant(&app, "new", json!({})).await, tenant(&app, "other", json!({})).await);
    other.api.send(json!({})).await;
    assert_eq!(new.api.get("/v1/messages").await.body["data"], json!([]));
    assert_eq!(new.api.get("/v1/messages?status=relayed").await.body["data"], json!([]));
    app.run_until_idle().await;
}
