//! The route of a message, by its stream and its sender's domain.

use postrider::config::{Config, Route};
use serde_json::json;

use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::smtp::SmtpServer;

fn url(smtp: &SmtpServer) -> String {
    format!("smtp://{}?tls=none", smtp.address())
}

fn route<const N: usize>(relays: [String; N]) -> Route {
    Route { relays: relays.map(Into::into).into(), ..Route::default() }
}

/// Bulk messages through `news`, messages from acme.test through `acme`, bulk messages from acme.test through `both`.
fn by_rule(config: &mut Config, news: &SmtpServer, acme: &SmtpServer, both: &SmtpServer) {
    let (streams, sender_domains) = (vec!["bulk".to_owned()], vec!["acme.test".to_owned()]);
    let rules = [
        ("news", Route { streams: streams.clone(), ..route([url(news)]) }),
        ("acme", Route { sender_domains: sender_domains.clone(), ..route([url(acme)]) }),
        ("both", Route { streams, sender_domains, ..route([url(both)]) }),
    ];
    config.routes.extend(rules.map(|(name, route)| (name.to_owned(), route)));
}

#[tokio::test]
async fn most_specific_route_wins() {
    let (news, acme, both) = (SmtpServer::start().await, SmtpServer::start().await, SmtpServer::start().await);
    let app = TestApp::builder().config(|config| by_rule(config, &news, &acme, &both)).start().await;
    for (from, stream) in [
        ("me@other.test", "transactional"),
        ("me@other.test", "bulk"),
        ("me@ACME.test", "transactional"),
        ("me@acme.test", "bulk"),
    ] {
        let sent = app.send(json!({"from": from, "stream": stream})).await;
        app.run_until_idle().await;
        assert_eq!(app.status(&sent.id).await, "relayed", "{from} in {stream}");
    }

    let sender = |smtp: &SmtpServer| smtp.messages().into_iter().map(|message| message.from).collect::<Vec<_>>();
    assert_eq!(sender(&app.smtp), ["me@other.test"]);
    assert_eq!(sender(&news), ["me@other.test"]);
    assert_eq!((sender(&acme), sender(&both)), (vec!["me@acme.test".into()], vec!["me@acme.test".into()]));
}

#[tokio::test]
async fn route_can_send_directly_to_mx() {
    let (dns, relay) = (DnsServer::start().await, SmtpServer::start().await);
    dns.mx("example.test", 10, "mx.test");
    dns.add_address("mx.test", "127.0.0.1");
    let direct = Route { streams: vec!["bulk".into()], ..route(["mx".into()]) };
    let app = TestApp::builder()
        .direct(&dns)
        .config(|config| {
            config.routes.insert("direct".into(), direct);
            config.routes.insert("rest".into(), route([url(&relay)]));
        })
        .start()
        .await;
    let sent = [app.send(json!({"stream": "bulk"})).await, app.send(json!({})).await];
    app.run_until_idle().await;
    assert_eq!((app.smtp.messages().len(), relay.messages().len()), (1, 1));
    assert_eq!(app.status(&sent[0].id).await, "delivered");
    assert_eq!(app.status(&sent[1].id).await, "relayed");
}

#[tokio::test]
async fn failover_to_the_second_relay_is_one_attempt() {
    let second = SmtpServer::start().await;
    let relays = route(["smtp://127.0.0.9:1?tls=none".into(), url(&second)]);
    let app = TestApp::builder().config(|config| drop(config.routes.insert("main".into(), relays))).start().await;
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let ann = app.recipient(&sent.id).await;
    assert_eq!((&ann["status"], &ann["attempts"]), (&json!("relayed"), &json!(1)));
}
