//! Allowed targets of webhooks: public and configured addresses, checked at every post.

use postrider::app::guard;
use postrider::url_guard::Denied;
use serde_json::json;
use url::Url;

use crate::support::app::TestApp;
use crate::support::dns::DnsServer;
use crate::support::hooks::Hook;
use crate::support::receiver::Receiver;

/// Posts to this URL. Returns the error, and whether the receiver got the post.
async fn posted(app: &TestApp, receiver: &Receiver, url: &str) -> (Option<String>, bool) {
    let hook = Hook::add(app, url, "").await;
    app.notify().await;
    let mut log = hook.log(app).await;
    (log.remove(0).1, !receiver.posts("/hook").is_empty())
}

#[tokio::test]
async fn loopback_address_is_refused_in_every_notation() {
    let (app, receiver) = (TestApp::start().await, Receiver::start().await);
    app.send(json!({})).await;
    let port = receiver.port();
    for host in
        ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "[::ffff:127.0.0.1]", "localhost", "0.0.0.0"]
    {
        let url = format!("http://{host}:{port}/hook");
        let refused = app.post("/v1/webhooks", &json!({"url": url})).await;
        assert!(refused.status == 422 && refused.faults().contains(&("/url", "denied_address")), "{host}: {refused:?}");
        let (error, reached) = posted(&app, &receiver, &url).await;
        let error = error.unwrap_or_default();
        assert!(error.contains("`webhooks.allow`") && !reached, "{host}: {error}");
    }
}

#[tokio::test]
async fn name_that_changes_to_loopback_is_refused_at_the_post() {
    let (dns, receiver) = (DnsServer::start().await, Receiver::start().await);
    let app = TestApp::builder().config(|config| config.dns = Some(dns.address())).start().await;
    app.send(json!({})).await;
    let url = format!("https://hook.test:{}/hook", receiver.port());
    dns.add_address("hook.test", "1.1.1.1");
    let plain = app.post("/v1/webhooks", &json!({"url": url.replace("https", "http")})).await;
    assert_eq!(plain.faults(), [("/url", "denied_address")], "events must not cross the Internet in the clear");
    let made = app.post("/v1/webhooks", &json!({"url": url})).await;
    assert_eq!(made.status, 201, "{made:?}");
    dns.set_address("hook.test", "127.0.0.1");
    let (error, reached) = posted(&app, &receiver, &url).await;
    let error = error.unwrap_or_default();
    assert!(error.contains("hook.test is at 127.0.0.1, a loopback address") && !reached, "{error}");
}

#[tokio::test]
async fn targets_allowed_by_name_or_network_are_reached() {
    for rule in ["hook.test", "127.0.0.0/8", "127.0.0.1"] {
        let (dns, receiver) = (DnsServer::start().await, Receiver::start().await);
        dns.add_address("hook.test", "10.0.0.1");
        dns.set_address("hook.test", "127.0.0.1");
        let config = |config: &mut postrider::config::Config| {
            config.dns = Some(dns.address());
            config.webhooks.allow = vec![rule.to_owned()];
        };
        let app = TestApp::builder().config(config).start().await;
        app.send(json!({})).await;
        let url = format!("http://HOOK.test:{}/hook", receiver.port());
        assert_eq!(posted(&app, &receiver, &url).await, (None, true), "{rule}");
    }
}

#[tokio::test]
async fn only_allowed_addresses_of_a_name_are_connected_to() {
    let (dns, receiver) = (DnsServer::start().await, Receiver::start().await);
    for ip in ["10.1.1.1", "127.0.0.1", "169.254.169.254"] {
        dns.add_address("hook.test", ip);
    }
    let config = |config: &mut postrider::config::Config| {
        config.dns = Some(dns.address());
        config.webhooks.allow = vec!["127.0.0.1".into()];
    };
    let app = TestApp::builder().config(config).start().await;
    app.send(json!({})).await;
    let url = format!("http://hook.test:{}/hook", receiver.port());
    assert_eq!(posted(&app, &receiver, &url).await, (None, true));
}

#[tokio::test]
async fn dns_failure_at_creation_is_not_a_refusal() {
    let dns = DnsServer::start().await;
    dns.servfail("broken.test");
    dns.add_address("inside.test", "192.168.1.1");
    let mut config = postrider::config::Config { dns: Some(dns.address()), ..Default::default() };
    let admits = async |config: &postrider::config::Config, host: &str| {
        guard(config).unwrap().admits(&Url::parse(&format!("https://{host}/")).unwrap()).await
    };
    assert_eq!(admits(&config, "nobody.test").await, Err(Denied::Unknown("nobody.test".into())));
    assert_eq!(admits(&config, "broken.test").await, Ok(()));
    assert!(matches!(admits(&config, "inside.test").await, Err(Denied::Address { .. })));
    config.webhooks.allow_private = true;
    assert_eq!(admits(&config, "inside.test").await, Ok(()));
}
