//! What an open page receives, and that it ends with the session and with the service.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::Method;
use serde_json::json;

use super::browser::Browser;
use crate::receiving::{deliver, route};
use crate::support::app::TestApp;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, serve};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);

/// Reads an event stream until it has this text, and returns what was read.
async fn read_until(response: reqwest::Response, text: &str) -> String {
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut chunks, mut read) = (response.bytes_stream(), String::new());
    let reading = async {
        while !read.contains(text) {
            let chunk = chunks.next().await.expect("more").expect("a chunk");
            read.push_str(&String::from_utf8_lossy(&chunk));
        }
    };
    tokio::time::timeout(LIMIT, reading).await.expect("the text");
    read
}

#[tokio::test]
async fn digest_says_that_something_happened_and_not_what() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    app.send(json!({"subject": "old"})).await;
    let stream = browser.request(Method::GET, "/ui/live?digest=true").send().await.unwrap();
    for _ in 0..20 {
        app.send(json!({"subject": "new"})).await;
    }
    let read = read_until(stream, "event: changed").await;
    assert!(read.contains("data: {}") && !read.contains("message"), "{read}");
}

#[tokio::test]
async fn digest_of_a_message_reports_its_events() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let sent = app.send(json!({})).await;
    let path = format!("/ui/live?digest=true&message_id={}", sent.id);
    let stream = browser.request(Method::GET, &path).send().await.unwrap();
    app.run_until_idle().await;
    read_until(stream, "event: changed").await;
    assert_eq!(browser.get("/ui/live?digest=true&message_id=nonsense").await.status, 422);
}

#[tokio::test]
async fn digest_reports_a_received_message() {
    let app = TestApp::builder().with_inbound().start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    route(&app, "*@reply.acme.test", "store").await;
    let stream = browser.request(Method::GET, "/ui/live?digest=true").send().await.unwrap();
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], "Subject: Hello\r\n\r\nHi\r\n").await;
    read_until(stream, "event: changed").await;
}

#[tokio::test]
async fn signing_out_ends_an_open_digest() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let stream = browser.request(Method::GET, "/ui/live?digest=true").send().await.unwrap();
    let read = tokio::spawn(stream.text());
    browser.submit("/ui/logout/all", &[]).await;
    until("the digest ends", LIMIT, async || {
        app.send(json!({})).await;
        if read.is_finished() { Ok(()) } else { Err("open") }
    })
    .await;
}

#[tokio::test]
async fn open_pages_do_not_delay_the_end_of_the_service() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let service = Service::start(serve(&database.url, smtp.address(), &[])).await;
    let base = service.address.clone().expect("an address");
    let browser = Browser::signed_in(&base, &key(&database.url).await).await;
    let mut streams = Vec::new();
    for path in ["/ui/live", "/ui/live?digest=true"] {
        let stream = browser.request(Method::GET, path).send().await.unwrap();
        assert_eq!(stream.status(), 200, "{path}");
        streams.push(tokio::spawn(stream.text()));
    }
    service.send_sigterm().await;
    let ended = tokio::time::timeout(Duration::from_secs(20), service.ended()).await;
    assert!(ended.expect("an end").success());
    for stream in streams {
        stream.await.unwrap().expect("a complete response");
    }
}

/// Elements that a page refreshes by itself, as `live.js` expects them.
#[tokio::test]
async fn everything_that_changes_is_refreshed() {
    let app = TestApp::start().await;
    let sent = app.send(json!({})).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let message = format!("/ui/messages/{}", sent.id);
    let route = route(&app, "*@reply.acme.test", "store").await;
    let route = format!("/ui/inbound-routes/{}", route["id"].as_str().unwrap());
    for path in [
        "/ui",
        "/ui/messages",
        "/ui/received",
        "/ui/bulks",
        "/ui/actions",
        "/ui/lanes",
        "/ui/streams",
        "/ui/suppressions",
        "/ui/domains",
        "/ui/inbound-routes",
        "/ui/webhooks",
        "/ui/keys",
        "/ui/tenants",
        "/ui/service",
        "/ui/audit",
        &message,
        &route,
    ] {
        let mut refreshed = 0;
        for tag in browser.page(path).await.tags() {
            let value = |name: &str| tag.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| &**value);
            if value("data-live").is_none() && value("data-poll").is_none() {
                continue;
            }
            refreshed += 1;
            let id = value("id").unwrap_or_else(|| panic!("{path}: {tag:?}"));
            if value("data-live") != Some("messages") {
                assert_eq!(value("hx-select"), Some(&*format!("#{id}")), "{path}: {tag:?}");
                assert_eq!(value("hx-trigger"), Some("refresh"), "{path}: {tag:?}");
                browser.page(value("hx-get").expect("a path")).await.shows(&[&format!("id=\"{id}\"")]);
            }
        }
        assert!(refreshed > 0, "{path}");
    }
}

/// A form without an id would stop the refreshes while it is open.
#[test]
fn every_form_in_a_refreshed_element_has_an_id() {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ui/templates");
    for file in std::fs::read_dir(dir).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let Some(start) = text.find("hx-trigger=\"refresh\"") else { continue };
        // Its actions are refreshed, too.
        let start = if text.contains("hx-select-oob=\"#actions") { 0 } else { start };
        for form in text[start..].split("<details class=\"confirm\"").skip(1) {
            assert!(form.starts_with(" id=\""), "{}: {}", path.display(), &form[..form.len().min(80)]);
        }
    }
}

#[tokio::test]
async fn refresh_of_the_overview_reads_one_part() {
    let app = TestApp::start().await;
    app.send(json!({"subject": "Your invoice"})).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let newest = browser.page("/ui?part=newest").await;
    newest.shows(&["Your invoice", "id=\"live-newest\""]);
    assert!(!newest.text.contains("live-hour") && !newest.text.contains("live-traffic"), "{}", newest.text);
    let hour = browser.page("/ui?part=hour").await;
    assert!(hour.text.contains("id=\"live-hour\"") && !hour.text.contains("Your invoice"), "{}", hour.text);
    browser.page("/ui?part=traffic&range=7d").await.shows(&["id=\"live-traffic\"", "part=traffic&amp;range=7d"]);
}
