//! The pages: status, headers, and what they show to whom.

use chrono::TimeDelta;
use postrider::db::keys::{self, NewKey};
use postrider::domain::id::{KeyId, TenantId};
use postrider::domain::key::{KeyMode, Scope, Secret};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

use super::browser::Browser;
use crate::support::app::TestApp;
use crate::support::client::ApiResponse;
use crate::support::dns::DnsServer;
use crate::support::domains::{checked, publish, registered, with_secret};
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};

/// The sections, which exist without any data.
pub const SECTIONS: [&str; 15] = [
    "/ui",
    "/ui/messages",
    "/ui/received",
    "/ui/bulks",
    "/ui/templates",
    "/ui/lanes",
    "/ui/streams",
    "/ui/suppressions",
    "/ui/domains",
    "/ui/inbound-routes",
    "/ui/webhooks",
    "/ui/keys",
    "/ui/audit",
    "/ui/actions",
    "/ui/suppressions/import",
];

/// The sections that need the scope `operator`.
pub const OPERATOR_SECTIONS: [&str; 2] = ["/ui/tenants", "/ui/service"];

#[tokio::test]
async fn every_section_has_a_page_with_a_strict_policy() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for path in SECTIONS.into_iter().chain(["/ui/login"]) {
        let page = browser.page(path).await;
        let policy = page.header("content-security-policy");
        for part in ["default-src 'none';", "script-src 'self';", "style-src 'self';", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{path}: {policy}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(page.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(page.header("cache-control"), "no-store", "{path}");
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8", "{path}");
        assert!(!page.header("x-request-id").is_empty(), "{path}");
    }
}

#[tokio::test]
async fn pages_have_nothing_inline_and_nothing_from_elsewhere() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for path in SECTIONS.into_iter().chain(OPERATOR_SECTIONS) {
        for tag in browser.page(path).await.tags() {
            let value =
                |name: &str| tag.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
            assert!(tag.name != "style" && value("style").is_none(), "{path}: {tag:?}");
            assert!(
                tag.name != "script" || value("src").is_some_and(|src| src.starts_with("/ui/assets/")),
                "{path}: {tag:?}"
            );
            assert!(!tag.attributes.iter().any(|(name, _)| name.starts_with("on")), "{path}: {tag:?}");
            for link in [value("src"), value("href"), value("action"), value("hx-get")].into_iter().flatten() {
                assert!(link.starts_with(['/', '#', '?']) && !link.starts_with("//"), "{path}: {tag:?}");
            }
        }
    }
}

#[tokio::test]
async fn message_page_shows_why_and_what_happened() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted, come back later"]);
    let sent = app.send(json!({"html": "<p>Hi</p>", "tags": [{"name": "order", "value": "42"}]})).await;
    app.run_until_idle().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page(&format!("/ui/messages/{}", sent.id)).await;
    page.shows(&["ann@example.test", "deferred", "451 4.7.1 Greylisted, come back later", "Retry now", "order: 42"]);
    browser.page(&format!("/ui/messages/{}?tab=text", sent.id)).await.shows(&["Hello."]);
    browser.page(&format!("/ui/messages/{}?tab=headers", sent.id)).await.shows(&["Message-ID", "Your invoice"]);
    browser.page("/ui/messages").await.shows(&["Your invoice", "badge-warn"]);
    browser.page(&format!("/ui/messages/{}/row", sent.id)).await.shows(&["<tr data-id=", "deferred"]);
}

#[tokio::test]
async fn preview_runs_nothing_and_loads_nothing() {
    let app = TestApp::start().await;
    let html = "<script>alert(1)</script><img src=\"https://track.test/p.gif\"><a href=\"https://acme.test\">x</a>";
    let sent = app.send(json!({"html": html})).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let preview = browser.page(&format!("/ui/messages/{}/html", sent.id)).await;
    let policy = preview.header("content-security-policy");
    assert!(policy.starts_with("sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none';"), "{policy}");
    assert!(policy.contains("img-src data:;") && !policy.contains("script"), "{policy}");
    let with_images = browser.page(&format!("/ui/messages/{}/html?images=1", sent.id)).await;
    let policy = with_images.header("content-security-policy");
    assert!(policy.contains("img-src data: https:;") && !policy.contains("script"), "{policy}");
    let page = browser.page(&format!("/ui/messages/{}", sent.id)).await;
    page.shows(&["Load remote images"]);
    let frame = page.tags().into_iter().find(|tag| tag.name == "iframe").expect("a frame");
    let sandbox = frame.attributes.iter().find(|(name, _)| name == "sandbox").map(|(_, value)| value.as_str());
    assert_eq!(sandbox, Some("allow-popups allow-popups-to-escape-sandbox"));
}

#[tokio::test]
async fn search_finds_messages_and_explains_what_is_wrong() {
    let app = TestApp::start().await;
    app.send(json!({"subject": "Invoice 1", "to": "ann@example.test"})).await;
    app.send(json!({"subject": "Welcome", "to": "bo@example.test"})).await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let found = browser.page("/ui/messages?q=to%3Aann%40example.test").await;
    assert!(found.text.contains("Invoice 1") && !found.text.contains("Welcome"), "{}", found.text);
    browser.page("/ui/messages?q=welc").await.shows(&["Welcome"]);
    browser.page("/ui/messages?q=nothing").await.shows(&["No message matches"]);
    browser.page("/ui/messages?q=too%3Aann").await.shows(&["`too:` is not a field"]);
    browser.page("/ui/messages?q=status%3Alost").await.shows(&["status: Pass a status"]);
}

#[tokio::test]
async fn list_continues_on_the_next_page() {
    let app = TestApp::start().await;
    for n in 0..51 {
        app.clock.advance(TimeDelta::seconds(1));
        app.send(json!({"subject": format!("number {n}")})).await;
    }
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let first = browser.page("/ui/messages").await;
    assert!(first.text.contains("number 50") && !first.text.contains(">number 0<"));
    let is_next = |(name, value): &(String, String)| name == "rel" && value == "next";
    let next = first.tags().into_iter().find(|tag| tag.attributes.iter().any(is_next)).expect("a next page");
    let path = next.attributes.iter().find(|(name, _)| name == "href").map(|(_, value)| value.clone()).unwrap();
    browser.page(&path).await.shows(&[">number 0<", "First page"]);
}

#[tokio::test]
async fn overview_names_what_is_wrong_and_the_fix() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    browser.page("/ui").await.shows(&["Nothing is wrong"]);
    app.send(json!({})).await;
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({"reason": "the relay moves"})).await;
    let page = browser.page("/ui").await;
    page.shows(&["What needs attention", "is paused", "Resume it when the reason no longer applies."]);
}

#[tokio::test]
async fn message_page_shows_conversation_and_lane() {
    let app = TestApp::start().await;
    app.smtp.rcpt("ann@example.test").replies(["451 4.7.1 Greylisted, come back later"]);
    let sent = app.send(json!({})).await;
    app.run_until_idle().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page(&format!("/ui/messages/{}", sent.id)).await;
    page.shows(&["SMTP conversation", "RCPT TO:"]);
    let is_lane = |(name, value): &&(String, String)| name == "href" && value.starts_with("/ui/lanes?q=");
    let tags = page.tags();
    let (_, path) = tags.iter().flat_map(|tag| &tag.attributes).find(is_lane).expect("a link to the lane");
    let (path, fragment) = path.split_once('#').expect("the lane's id");
    browser.page(path).await.shows(&[&format!("id=\"{fragment}\"")]);
}

#[tokio::test]
async fn overview_charts_what_happened() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    app.run_until_idle().await;
    app.worker.count_events().await.unwrap();
    app.clock.advance(TimeDelta::seconds(1));
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page("/ui?range=1h").await;
    page.shows(&[
        "Recipients per minute",
        "Accepted 1",
        "Delivered 1",
        "1 accepted\n1 delivered\n0 deferred\n0 bounced",
    ]);
    assert_eq!(page.tags().iter().filter(|tag| tag.name == "svg").count(), 4);
    for (range, step) in [("24h", "hour"), ("7d", "hour"), ("30d", "day"), ("x", "hour")] {
        browser.page(&format!("/ui?range={range}")).await.shows(&[&format!("Recipients per {step}")]);
    }
}

#[tokio::test]
async fn later_pages_keep_the_filters() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page("/ui/suppressions?filter=manual&after=ZXhhbXBsZQ").await;
    page.shows(&["First page", "href=\"/ui/suppressions?filter=manual\""]);
}

#[tokio::test]
async fn page_of_a_forbidden_section_is_403() {
    let app = TestApp::start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let browser = Browser::signed_in(&app.base, &reader.key).await;
    let page = browser.get("/ui/keys").await;
    assert_eq!((page.status, page.header("content-type")), (403, "text/html; charset=utf-8"));
    page.shows(&["Not allowed", "This key lacks the scope `admin`."]);
    let overview = browser.page("/ui").await;
    assert!(!overview.text.contains("href=\"/ui/keys\""), "the navigation has a section that the key may not open");
}

#[tokio::test]
async fn unknown_pages_and_ids_are_404() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for path in [
        "/ui/nowhere",
        "/ui/messages/msg_1",
        "/ui/received/rcv_1",
        "/ui/inbound-routes/irt_1",
        "/ui/domains/none.test",
        "/ui/webhooks/x%2Fy",
        "/ui/messages/..%2F..%2Fkeys",
    ] {
        let page = browser.get(path).await;
        assert_eq!((page.status, page.header("content-type")), (404, "text/html; charset=utf-8"), "{path}");
    }
}

#[tokio::test]
async fn another_tenant_sees_nothing() {
    let app = TestApp::start().await;
    let sent = app.send(json!({"subject": "for our eyes only"})).await;
    app.sql("INSERT INTO tenants (id, name, created_at) VALUES ('00000000-0000-0000-0000-000000000007', 'b', now())")
        .await;
    let secret = Secret::new(KeyMode::Live, None, [7; 32]);
    let key = NewKey {
        id: KeyId(Uuid::from_u128(7)),
        tenant: TenantId(Uuid::from_u128(7)),
        name: "b",
        hash: Secret::hash(secret.expose()),
        mode: KeyMode::Live,
        scopes: &[Scope::Admin.as_str().to_owned()],
        sender_domains: None,
        allowed_ips: None,
        rate: None,
        quota: None,
        created_at: "2026-11-23T12:00:00Z".parse().unwrap(),
        expires_at: None,
    };
    keys::insert(&app.db, &key).await.unwrap();
    let browser = Browser::signed_in(&app.base, secret.expose()).await;
    for path in SECTIONS {
        assert!(!browser.page(path).await.text.contains("our eyes"), "{path}");
    }
    for path in ["", "/html", "/raw", "/row", "/attachments/0"] {
        assert_eq!(browser.get(&format!("/ui/messages/{}{path}", sent.id)).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn key_limited_to_a_domain_sees_only_its_messages() {
    let app = TestApp::start().await;
    let created = json!({"name": "shop", "scopes": ["read"], "sender_domains": ["shop.test"]});
    let created = app.post("/v1/keys", &created).await.body;
    app.send(json!({"subject": "hidden"})).await;
    app.send(json!({"subject": "own", "from": "a@shop.test"})).await;
    let browser = Browser::signed_in(&app.base, created["secret"].as_str().unwrap()).await;
    for path in ["/ui", "/ui/messages"] {
        let page = browser.page(path).await;
        assert!(page.text.contains(">own<") && !page.text.contains("hidden<"), "{path}: {}", page.text);
    }
    for path in ["/ui/lanes", "/ui/webhooks", "/ui/suppressions", "/ui/received", "/ui/inbound-routes"] {
        assert_eq!(browser.get(path).await.status, 403, "{path}");
    }
}

#[tokio::test]
async fn domain_page_shows_how_to_fix_a_wrong_record() {
    let dns = DnsServer::start().await;
    let app = with_secret(&dns).start().await;
    let created = registered(&app, "acme.test").await;
    publish(&dns, &created);
    dns.txt("_dmarc.acme.test", ["v=DMARC1; p=none", "v=DMARC1; p=reject"]);
    checked(&app, "acme.test").await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    browser.page("/ui/domains/acme.test").await.shows(&["There are 2 DMARC records at _dmarc.acme.test", "Keep one."]);
}

#[tokio::test]
async fn webhook_page_shows_the_response_to_a_failed_post() {
    let (app, receiver) = (hooks::start().await, Receiver::start().await);
    let hook = app.post("/v1/webhooks", &json!({"url": receiver.url("/hook")})).await.body;
    receiver.script("/hook", [Reply::Status(503)]);
    app.send(json!({})).await;
    app.notify().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page(&format!("/ui/webhooks/{}", hook["id"].as_str().unwrap())).await;
    page.shows(&[">503<", "<span class=\"muted\">answer</span>", "responded with 503: answer"]);
}

#[tokio::test]
async fn lanes_page_says_what_the_connections_apply_to() {
    let app = TestApp::start().await;
    app.send(json!({})).await;
    let lane = json!({"stream": "transactional", "route": "relay", "domain": "*", "rate": 2});
    let put = ApiResponse::to(app.request(Method::PUT, "/v1/lanes").json(&lane)).await;
    assert!(put.status < 300, "{}", put.body);
    let browser = Browser::signed_in(&app.base, &app.key).await;
    browser.page("/ui/lanes").await.shows(&["for each worker"]);
}

#[tokio::test]
async fn assets_are_cached_for_ever_and_compressed() {
    let app = TestApp::start().await;
    let browser = Browser::open(&app.base);
    let page = browser.page("/ui/login").await;
    let style = page.tags().into_iter().find(|tag| tag.attributes.contains(&("rel".into(), "stylesheet".into())));
    let path = style.unwrap().attributes.into_iter().find(|(name, _)| name == "href").unwrap().1;
    let request = || browser.request(reqwest::Method::GET, &path);
    let style = super::browser::Page::to(request()).await;
    assert_eq!(style.header("cache-control"), "public, max-age=31536000, immutable");
    let known = super::browser::Page::to(request().header("if-none-match", style.header("etag"))).await;
    assert_eq!(known.status, 304);
    let compressed = super::browser::Page::to(request().header("accept-encoding", "br, gzip")).await;
    assert_eq!((compressed.header("content-encoding"), compressed.status), ("gzip", 200));
    assert!(style.text.contains("--accent"), "uncompressed without Accept-Encoding");
    // A page of another version, during an update.
    let other = browser.page("/ui/assets/0000/app.css").await;
    assert_eq!((other.header("cache-control"), &other.text), ("no-cache", &style.text));
    assert_eq!(browser.get("/ui/assets/0000/none.css").await.status, 404);
}

/// The page and the files that it loads.
#[tokio::test]
async fn first_load_is_small() {
    const LIMIT: usize = 100_000;
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page("/ui").await;
    let mut paths: Vec<String> =
        page.tags().into_iter().flat_map(|tag| tag.attributes).map(|(_, value)| value).collect();
    paths.retain(|value| value.starts_with("/ui/assets/"));
    paths.sort_unstable();
    paths.dedup();
    assert!(paths.len() >= 4, "{paths:?}");
    let mut size = page.text.len();
    for path in paths {
        let request = browser.request(reqwest::Method::GET, &path).header("accept-encoding", "gzip");
        size += request.send().await.unwrap().bytes().await.unwrap().len();
    }
    assert!(size < LIMIT, "the first load is {size} bytes");
}

#[tokio::test]
async fn colour_scheme_is_kept_in_a_cookie() {
    let app = TestApp::start().await;
    let browser = Browser::open(&app.base);
    let page = browser.post("/ui/theme", &[("theme", "dark"), ("next", "/ui/login")]).await;
    assert_eq!((page.status, page.location().as_str()), (303, "/ui/login"));
    let mut themed = Browser::open(&app.base);
    themed.keep_cookie(&page);
    themed.page("/ui/login").await.shows(&["data-theme=\"dark\""]);
    assert!(!browser.page("/ui/login").await.text.contains("data-theme"));
}

#[tokio::test]
async fn message_page_says_that_content_was_deleted() {
    let app = TestApp::start().await;
    let id = app.send(json!({"subject": "Your invoice"})).await.id;
    app.run_until_idle().await;
    app.clock.advance(TimeDelta::days(60));
    app.worker.delete_old_data().await.unwrap();
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let page = browser.page(&format!("/ui/messages/{id}")).await;
    assert_eq!(page.status, 200);
    assert!(
        page.text.contains("Your invoice") && page.text.contains("The content of this message was deleted"),
        "{}",
        page.text
    );
}
