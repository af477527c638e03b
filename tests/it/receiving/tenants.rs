//! Tenants with inbound routes do not see each other.

use serde_json::json;

use super::{deliver, mime, received, route, start};
use crate::support::clock::hours;
use crate::support::inbound_client::Client;
use crate::tenants::{act, tenant};

/// Marks the domain of the tenant `two` as verified.
const VERIFY_OF_TWO: &str = "UPDATE domains SET verified_at = now(), checked_at = now()
     WHERE name = 'acme.test' AND tenant_id = (SELECT id FROM tenants WHERE name = 'two')";

#[tokio::test]
async fn domain_belongs_to_the_first_tenant_with_a_route() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    route(&one.api, "a@reply.acme.test", "store").await;
    let taken =
        two.api.post("/v1/inbound-routes", &json!({"match": "*@reply.acme.test", "action": {"type": "store"}})).await;
    assert_eq!(taken.problem(), (409, "inbound_domain_taken"));
    route(&two.api, "a@reply.other.test", "store").await;
    deliver(&app, "ann@example.test", &["a@reply.acme.test", "a@reply.other.test"], &mime("")).await;
    for (api, to) in [(&one.api, "a@reply.acme.test"), (&two.api, "a@reply.other.test")] {
        let listed = received(api).await;
        assert_eq!((listed.len(), &listed[0]["to"]), (1, &json!([to])), "each sees only its own recipient");
    }
    assert_eq!(received(&app).await.len(), 0);
}

#[tokio::test]
async fn verified_domain_is_reserved_for_its_tenant() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    assert_eq!(one.api.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    app.sql("UPDATE domains SET verified_at = now(), checked_at = now() WHERE name = 'acme.test'").await;
    let body = json!({"match": "*@reply.acme.test", "action": {"type": "store"}});
    assert_eq!(two.api.post("/v1/inbound-routes", &body).await.problem(), (409, "inbound_domain_taken"));
    route(&one.api, "*@reply.acme.test", "store").await;
}

#[tokio::test]
async fn domain_that_two_registered_needs_verification() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    let body = json!({"match": "*@reply.acme.test", "action": {"type": "store"}});
    for tenant in [&one, &two] {
        assert_eq!(tenant.api.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    }
    for tenant in [&one, &two] {
        assert_eq!(tenant.api.post("/v1/inbound-routes", &body).await.problem(), (409, "inbound_domain_taken"));
    }
    app.sql(VERIFY_OF_TWO).await;
    assert_eq!(one.api.post("/v1/inbound-routes", &body).await.problem(), (409, "inbound_domain_taken"));
    route(&two.api, "*@reply.acme.test", "store").await;
    // Alone with a domain, a tenant need not have verified it.
    assert_eq!(one.api.post("/v1/domains", &json!({"name": "other.test"})).await.status, 201);
    route(&one.api, "*@other.test", "store").await;
}

#[tokio::test]
async fn verified_tenant_gets_a_domain_that_another_one_used() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    route(&one.api, "*@reply.acme.test", "store").await;
    let body = json!({"match": "a@reply.acme.test", "action": {"type": "store"}});
    assert_eq!(two.api.post("/v1/domains", &json!({"name": "acme.test"})).await.status, 201);
    assert_eq!(two.api.post("/v1/inbound-routes", &body).await.problem(), (409, "inbound_domain_taken"));
    app.sql(VERIFY_OF_TWO).await;
    deliver(&app, "ann@example.test", &["a@reply.acme.test"], &mime("")).await;
    assert_eq!(received(&one.api).await.len(), 1, "as long as the other one has no route");
    route(&two.api, "a@reply.acme.test", "store").await;
    let replies = deliver(&app, "ann@example.test", &["a@reply.acme.test", "b@reply.acme.test"], &mime("")).await;
    assert!(replies[0].starts_with("250 ") && replies[1].starts_with("550 5.1.1 "), "{replies:?}");
    assert_eq!((received(&one.api).await.len(), received(&two.api).await.len()), (1, 1));
    assert_eq!(
        one.api.post("/v1/inbound-routes", &body).await.problem(),
        (409, "inbound_domain_taken"),
        "nor can the other one add routes"
    );
}

#[tokio::test]
async fn suspended_tenant_defers_messages() {
    let app = start().await;
    let one = tenant(&app, "one", json!({})).await;
    route(&one.api, "a@reply.acme.test", "store").await;
    act(&app, &one.id, "suspend").await;
    let replies = deliver(&app, "ann@example.test", &["a@reply.acme.test"], &mime("")).await;
    assert!(replies[0].starts_with("450 4.2.1 "), "{replies:?}");
    act(&app, &one.id, "resume").await;
    let replies = deliver(&app, "ann@example.test", &["a@reply.acme.test"], &mime("")).await;
    assert_eq!(replies[1], "250 2.0.0 Accepted\r\n");
}

#[tokio::test]
async fn message_is_deferred_if_one_tenant_is_suspended_meanwhile() {
    let app = start().await;
    let (one, two) = (tenant(&app, "one", json!({})).await, tenant(&app, "two", json!({})).await);
    route(&one.api, "a@reply.acme.test", "store").await;
    route(&two.api, "a@reply.other.test", "store").await;
    let mut client = Client::connect(app.inbound()).await;
    let envelope =
        "EHLO mx.example.test\r\nMAIL FROM:<>\r\nRCPT TO:<a@reply.acme.test>\r\nRCPT TO:<a@reply.other.test>\r\n";
    client.send(envelope).await;
    assert_eq!(client.codes(4).await, [250, 250, 250, 250]);
    act(&app, &two.id, "suspend").await;
    assert_eq!(client.code("DATA\r\n").await, 354);
    let reply = client.say(&format!("{}.\r\n", mime(""))).await;
    assert!(reply.starts_with('4') && reply.contains(" 4.2.1 "), "{reply}");
    assert_eq!((received(&one.api).await.len(), received(&two.api).await.len()), (0, 0));
}

#[tokio::test]
async fn test_and_live_routes_have_separate_messages() {
    let app = start().await;
    let test = app.with_test_key().await;
    route(&app, "*@reply.acme.test", "store").await;
    route(&test, "*@reply.acme.test", "store").await;
    route(&test, "only-test@reply.acme.test", "store").await;
    deliver(&app, "ann@example.test", &["only-test@reply.acme.test"], &mime("")).await;
    assert_eq!((received(&app).await.len(), received(&test).await.len()), (1, 1));
    let event = test.get("/v1/events?type=message.received").await.body["data"][0].clone();
    assert_eq!(event["data"]["test"], true, "{event}");
    assert_eq!(app.get("/v1/events?type=message.received").await.body["data"][0]["data"]["test"], json!(null));
}

#[tokio::test]
async fn old_received_messages_are_deleted() {
    let app = start().await;
    route(&app, "*@reply.acme.test", "store").await;
    deliver(&app, "ann@example.test", &["a@reply.acme.test"], &mime("")).await;
    app.clock.advance(hours(24 * 89));
    postrider::db::schema::partitions::ensure(&app.db, postrider::clock::Clock::now(&*app.clock)).await.unwrap();
    app.worker.delete_old_data().await.unwrap().expect("no other process deletes");
    assert_eq!(received(&app).await.len(), 1);
    app.clock.advance(hours(24 * 2));
    app.worker.delete_old_data().await.unwrap().expect("no other process deletes");
    assert_eq!(received(&app).await.len(), 0);
}
