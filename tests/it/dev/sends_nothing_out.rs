//! With a production configuration, `postrider dev` still sends every message to the inbox.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::net::TcpListener;

use crate::support::dev::{Dev, directory};

/// Starts a server that must not be called. Returns its port and the number of connections to it.
async fn uncalled_server() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    tokio::spawn({
        let count = count.clone();
        async move {
            while listener.accept().await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    (port, count)
}

#[tokio::test]
async fn production_settings_send_nothing_out() {
    let (port, calls) = uncalled_server().await;
    let dir = directory();
    let toml = format!(
        "relay_url = \"smtp://127.0.0.1:{port}?tls=none\"\n\
         mx_port = {port}\n\
         public_url = \"https://mail.acme.example\"\n\
         [delivery]\nallow_loopback_mx = true\n\
         [inbound]\nlisten = \"0.0.0.0:0\"\n\
         [domains]\nunverified = \"refuse\"\n\
         [webhooks]\nallow = [\"192.0.2.0/24\"]\nallow_private = true\n\
         [routes.news]\nstreams = [\"bulk\"]\nrelays = [\"smtp://127.0.0.1:{port}?tls=none\"]\n\
         [routes.own]\nsender_domains = [\"direct.test\"]\nrelays = [\"mx\"]\n"
    );
    std::fs::write(dir.path().join("postrider.toml"), toml).unwrap();
    let dev = Dev::start_with(dir.path(), |command| {
        command
            .env("POSTRIDER_ROUTES__URGENT__STREAMS", "transactional")
            .env("POSTRIDER_ROUTES__URGENT__RELAYS", format!("smtp://127.0.0.1:{port}?tls=none"))
            .env("DATABASE_URL", format!("postgres://127.0.0.1:{port}/production"));
    })
    .await;
    let sender = dev.api("api_key");
    for fields in [
        json!({"stream": "bulk"}),
        json!({"stream": "transactional"}),
        json!({"from": "a@direct.test", "to": "x@[127.0.0.1]"}),
    ] {
        sender.send(fields).await;
    }
    let third = sender.get("/v1/dev/inbox/3?wait=30").await;
    assert_eq!(third.status, 200, "{}", third.body);
    // A webhook endpoint on another machine is refused with the reason.
    let admin = dev.api("admin_key");
    for url in ["https://1.1.1.1/hooks", "http://192.0.2.7/hooks"] {
        let refused = admin.post("/v1/webhooks", &json!({"url": url, "events": ["message.relayed"]})).await;
        assert_eq!(refused.status, 422, "{url}: {}", refused.body);
        assert!(refused.body.to_string().contains("posts to this machine only"), "{url}: {}", refused.body);
    }
    assert_eq!(calls.load(Ordering::SeqCst), 0, "connections to the production relay or database");
    let log = dev.log();
    let warning = log.lines().find(|line| line.contains("dev_settings_ignored")).expect("a warning");
    for key in
        ["DATABASE_URL", "relay_url", "routes.news", "routes.own", "routes.urgent", "public_url", "inbound.listen"]
    {
        assert!(warning.contains(key), "{key}: {warning}");
    }
    assert!(dev.stop().await.success());
}
