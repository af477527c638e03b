//! One tenant's backlog does not delay another tenant's messages.

use reqwest::Method;
use serde_json::{Value, json};

use super::tenant;
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::dns::DnsServer;
use crate::support::smtp::ReceivedMessage;

/// The number of messages in the backlog.
const BACKLOG: usize = 600;
/// The number of messages of the other tenant.
const FEW: usize = 5;
/// These messages are sent first. If the lanes or streams of both tenants took turns, the few would need far more.
const FIRST: usize = BACKLOG / 10;

/// Sends messages in batches; `fields` returns those of the message with a number.
async fn send(api: &Api, count: usize, fields: impl Fn(usize) -> Value) {
    let messages: Vec<Value> = (0..count).map(|n| message(fields(n))).collect();
    for batch in messages.chunks(100) {
        assert_eq!(api.post("/v1/messages/batch", &json!(batch)).await.status, 202);
    }
}

/// Returns the place of the last of the few messages, from `few@acme.test`, among all that the server received.
fn last_of_few(app: &TestApp) -> usize {
    let received = app.smtp.messages();
    let is_of_few = |(_, message): &(usize, &ReceivedMessage)| message.from == "few@acme.test";
    let places: Vec<usize> = received.iter().enumerate().filter(is_of_few).map(|(n, _)| n).collect();
    assert_eq!((received.len(), places.len()), (BACKLOG + FEW, FEW));
    *places.last().unwrap()
}

#[tokio::test]
async fn backlog_in_many_streams_of_a_relay_delays_nobody() {
    let app = TestApp::start().await;
    let (busy, small) = (tenant(&app, "busy", json!({})).await, tenant(&app, "small", json!({})).await);
    for n in 0..20 {
        let stream = json!({"name": format!("s{n}"), "priority": 50});
        assert_eq!(busy.api.post("/v1/streams", &stream).await.status, 201);
    }
    send(&busy.api, BACKLOG, |n| json!({"stream": format!("s{}", n % 20)})).await;
    send(&small.api, FEW, |_| json!({"stream": "bulk", "from": "few@acme.test"})).await;
    app.run_until_idle().await;
    let last = last_of_few(&app);
    assert!(last < FIRST, "message {last} of {}", BACKLOG + FEW);
}

#[tokio::test]
async fn backlog_to_many_domains_delays_nobody() {
    let dns = DnsServer::start().await;
    let app = TestApp::builder().direct(&dns).config(|config| config.delivery.concurrency = 16).start().await;
    let (busy, small) = (tenant(&app, "busy", json!({})).await, tenant(&app, "small", json!({})).await);
    let domain = |n: usize| format!("d{n}.test");
    for n in 0..=60 {
        dns.mx(&domain(n), 10, "mx.test");
    }
    dns.add_address("mx.test", "127.0.0.1");
    send(&busy.api, BACKLOG, |n| json!({"to": format!("a@{}", domain(n % 60)), "stream": "bulk"})).await;
    send(&small.api, FEW, |_| json!({"to": "a@d60.test", "stream": "bulk", "from": "few@acme.test"})).await;
    app.run_until_idle().await;
    let last = last_of_few(&app);
    assert!(last < FIRST, "message {last} of {}", BACKLOG + FEW);
}

#[tokio::test]
async fn backlog_in_dedicated_lanes_delays_nobody() {
    let app = TestApp::start().await;
    let (busy, small) = (tenant(&app, "busy", json!({})).await, tenant(&app, "small", json!({})).await);
    for n in 0..20 {
        let lane = json!({"stream": "bulk", "route": "relay", "domain": format!("d{n}.test"), "connections": 2});
        let created = ApiResponse::to(busy.api.request(Method::PUT, "/v1/lanes").json(&lane)).await;
        assert_eq!(created.status, 201, "{}", created.body);
    }
    send(&busy.api, BACKLOG, |n| json!({"to": format!("a@d{}.test", n % 20), "stream": "bulk"})).await;
    send(&small.api, FEW, |_| json!({"stream": "bulk", "from": "few@acme.test"})).await;
    app.run_until_idle().await;
    let last = last_of_few(&app);
    assert!(last < FIRST, "message {last} of {}", BACKLOG + FEW);
}
