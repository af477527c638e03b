//! Headers of responses for browsers and caches, and the log line of a request.

use std::io;
use std::sync::{Arc, Mutex};

use reqwest::Method;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::support::app::TestApp;
use crate::support::client::ApiResponse;

#[tokio::test]
async fn every_response_has_the_security_headers() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    let message = format!("/v1/messages/{}", sent.id);
    for path in [&message, &format!("{message}/raw"), "/v1/messages", "/healthz", "/nowhere", "/docs/", "/openapi.json"]
    {
        let headers = ApiResponse::to(app.request(Method::GET, path)).await.headers;
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!((header("x-content-type-options"), header("referrer-policy")), ("nosniff", "no-referrer"), "{path}");
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        let is_public = ["/docs/", "/openapi.json"].contains(&path);
        assert_eq!(header("cache-control"), if is_public { "" } else { "no-store" }, "{path}");
    }
    let docs = ApiResponse::to(app.anonymous(Method::GET, "/docs/")).await;
    assert_eq!(docs.headers["content-type"], "text/html; charset=utf-8");
    let policy = docs.headers["content-security-policy"].to_str().unwrap();
    assert!(policy.contains("script-src 'self';"), "{policy}");
    let page = String::from_utf8(docs.bytes).unwrap();
    assert!(!page.contains("<script>") && !page.contains(" onload="), "the policy would block inline scripts");
    let refused = ApiResponse::to(app.anonymous(Method::GET, "/v1/messages")).await;
    assert_eq!((refused.status, &refused.headers["cache-control"]), (401, &"no-store".parse().unwrap()));
}

/// The captured log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn log_contains_the_route_but_not_the_path() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(log.clone())
        .with_max_level(tracing::Level::INFO)
        .finish();
    // All tasks of this test run on this thread.
    let _guard = tracing::subscriber::set_default(subscriber);
    // With a single subscriber, a test on another thread, which has none, would disable the span.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    tracing::callsite::rebuild_interest_cache();
    let app = TestApp::builder()
        .config(|config| {
            config.public_url = Some("http://x".parse().unwrap());
            config.secret_key = Some("0123456789abcdef0123456789abcdef".to_owned().into());
        })
        .start()
        .await;
    app.post("/v1/streams", &json!({"name": "news", "unsubscribe": true})).await;
    app.send(json!({"stream": "news"})).await;
    app.run_until_idle().await;
    let mime = String::from_utf8(app.smtp.messages()[0].raw.clone()).unwrap().replace("\r\n ", " ");
    let token = mime.split("/u/").nth(1).unwrap().split('>').next().unwrap();
    assert_eq!(ApiResponse::to(app.anonymous(Method::POST, &format!("/u/{token}"))).await.status, 200);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("recipient_unsubscribed") && text.contains("route=\"/u/{token}\""), "{text}");
    assert!(!text.contains(token) && !text.contains(&token[..16]), "{text}");
}

#[tokio::test]
async fn public_listener_serves_only_unsubscribe_pages() {
    let app =
        TestApp::builder().config(|config| config.public_listen = Some("127.0.0.1:0".parse().unwrap())).start().await;
    let (other, api) = app.another_api().await;
    let base = format!("http://{}", other.public_address().expect("a listener"));
    let public = crate::support::client::Api::new(base, api.key);
    let page = public.anonymous(Method::GET, "/u/nonsense").send().await.unwrap();
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (404, &"text/html; charset=utf-8".parse().unwrap())
    );
    assert_eq!(public.get("/healthz").await.body, serde_json::json!({"status": "ok"}), "the version is not public");
    for path in ["/v1/messages", "/docs/", "/openapi.json", "/readyz"] {
        assert_eq!(public.get(path).await.problem(), (404, "not_found"), "{path}");
    }
    other.stop().await;
}
