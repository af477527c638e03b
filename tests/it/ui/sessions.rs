//! Sign in, sign out, and what ends a session.

use std::time::Duration;

use chrono::TimeDelta;
use postrider::domain::key::Scope;
use reqwest::Method;
use serde_json::json;

use super::browser::{Browser, Page};
use crate::support::app::TestApp;
use crate::support::until::until;

#[tokio::test]
async fn root_leads_to_the_dashboard_and_then_to_the_sign_in() {
    let app = TestApp::start().await;
    let browser = Browser::open(&app.base);
    assert_eq!(browser.get("/").await.location(), "/ui");
    let page = browser.get("/ui/messages?q=a").await;
    assert_eq!((page.status, page.location().as_str()), (303, "/ui/login?next=%2Fui%2Fmessages%3Fq%3Da"));
    browser.page("/ui/login").await.shows(&["Sign in", "type=\"password\""]);
}

#[tokio::test]
async fn key_signs_in_and_the_cookie_is_protected() {
    let app = TestApp::start().await;
    let mut browser = Browser::open(&app.base);
    let page = browser.sign_in(&app.key).await;
    assert_eq!((page.status, page.location().as_str()), (303, "/ui/messages"));
    let port = app.base.rsplit_once(':').unwrap().1;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with(&format!("postrider-{port}=")), "{cookie}");
    assert!(cookie.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(!cookie.contains(&app.key), "the cookie has the key");
    browser.page("/ui/messages").await.shows(&["No messages yet", "curl -sS"]);
}

#[tokio::test]
async fn cookie_of_a_public_name_needs_https() {
    let app = TestApp::start().await;
    let browser = Browser::open(&app.base);
    let sign_in = |origin: &'static str| {
        let form = browser.form("/ui/login", &[("key", app.key.as_str())]);
        Page::to(form.header("host", "mail.acme.test").header("origin", origin))
    };
    let page = sign_in("https://mail.acme.test").await;
    let cookie = page.header("set-cookie");
    assert!(cookie.starts_with("__Host-postrider=") && cookie.ends_with("; SameSite=Lax; Secure"), "{cookie}");
    let refused = sign_in("http://mail.acme.test").await;
    assert_eq!((refused.status, refused.header("set-cookie")), (400, ""));
    refused.shows(&["needs HTTPS"]);
}

#[tokio::test]
async fn cookie_needs_https_behind_a_proxy_that_hides_the_name() {
    let app = TestApp::start().await;
    let mut browser = Browser::open(&app.base);
    let form = browser.form("/ui/login", &[("key", app.key.as_str())]).header("sec-fetch-site", "same-origin");
    let page = Page::to(form.header("host", "127.0.0.1:8080").header("origin", "https://mail.test")).await;
    let cookie = page.header("set-cookie").to_owned();
    assert!(cookie.starts_with("__Host-postrider=") && cookie.ends_with("; Secure"), "{cookie}");
    browser.keep_cookie(&page);
    browser.page("/ui").await;
    let form = browser.form("/ui/login", &[("key", app.key.as_str())]).header("sec-fetch-site", "same-origin");
    let refused = Page::to(form.header("host", "127.0.0.1:8080").header("origin", "http://mail.test")).await;
    assert_eq!((refused.status, refused.header("set-cookie")), (400, ""));
}

#[tokio::test]
async fn unknown_sessions_are_counted_as_wrong_keys() {
    let app = TestApp::builder().config(|config| config.http.auth_failures_per_minute = 3).start().await;
    let valid = Browser::signed_in(&app.base, &app.key).await;
    let mut guessing = Browser::open(&app.base);
    let name = valid.cookie.as_ref().unwrap().split_once('=').unwrap().0.to_owned();
    // Not a token: needs no query.
    for _ in 0..5 {
        guessing.cookie = Some(format!("{name}=guess"));
        assert_eq!(guessing.get("/ui").await.status, 303);
    }
    guessing.cookie = Some(format!("{name}={}", "0".repeat(64)));
    for _ in 0..3 {
        assert_eq!(guessing.get("/ui").await.status, 303);
    }
    assert_eq!(guessing.get("/ui").await.status, 429);
    valid.page("/ui").await;
}

#[tokio::test]
async fn wrong_keys_are_refused_and_counted() {
    let app = TestApp::builder().config(|config| config.http.auth_failures_per_minute = 3).start().await;
    let mut browser = Browser::open(&app.base);
    for _ in 0..3 {
        let page = browser.sign_in("pr_wrong").await;
        assert_eq!((page.status, page.header("set-cookie")), (401, ""));
        page.shows(&["Invalid API key."]);
    }
    assert_eq!(browser.sign_in("pr_wrong").await.status, 429);
}

#[tokio::test]
async fn key_without_the_scope_read_cannot_sign_in() {
    let app = TestApp::start().await;
    let sender = app.with_scopes(&[Scope::Send]).await;
    let page = Browser::open(&app.base).sign_in(&sender.key).await;
    assert_eq!((page.status, page.header("set-cookie")), (403, ""));
    page.shows(&["lacks the scope"]);
}

#[tokio::test]
async fn sign_in_never_leads_to_another_site() {
    let app = TestApp::start().await;
    let browser = Browser::open(&app.base);
    for next in ["https://evil.test/", "//evil.test/ui", "/ui\\..\\evil"] {
        let location = browser.submit("/ui/login", &[("key", app.key.as_str()), ("next", next)]).await;
        assert_eq!(location, "/ui", "{next}");
    }
}

#[tokio::test]
async fn sign_out_ends_the_session_and_not_only_the_cookie() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let other = Browser::signed_in(&app.base, &app.key).await;
    assert_eq!(browser.submit("/ui/logout", &[]).await, "/ui/login");
    assert_eq!(browser.get("/ui").await.status, 303, "the old cookie works");
    other.page("/ui").await;
}

#[tokio::test]
async fn sign_out_everywhere_ends_all_sessions_of_the_key() {
    let app = TestApp::start().await;
    let reader = app.with_scopes(&[Scope::Read]).await;
    let [one, two] = [Browser::signed_in(&app.base, &app.key).await, Browser::signed_in(&app.base, &app.key).await];
    let other_key = Browser::signed_in(&app.base, &reader.key).await;
    one.submit("/ui/logout/all", &[]).await;
    assert_eq!([one.get("/ui").await.status, two.get("/ui").await.status], [303, 303]);
    other_key.page("/ui").await;
}

#[tokio::test]
async fn sign_out_everywhere_ends_open_event_streams() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let stream = browser.request(Method::GET, "/ui/live?after=0").send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let read = tokio::spawn(stream.text());
    app.send(json!({})).await;
    assert!(!read.is_finished());
    browser.submit("/ui/logout/all", &[]).await;
    until("the stream ends", Duration::from_secs(30), async || {
        app.send(json!({})).await;
        if read.is_finished() { Ok(()) } else { Err("open") }
    })
    .await;
    assert!(read.await.unwrap().unwrap().contains("message.accepted"));
}

#[tokio::test]
async fn looking_takes_no_requests_from_the_application() {
    let app = TestApp::start().await;
    let limited = json!({"name": "shop", "rate": {"requests_per_second": 1, "burst": 1}});
    let created = app.post("/v1/keys", &limited).await.body;
    let secret = created["secret"].as_str().unwrap();
    let browser = Browser::signed_in(&app.base, secret).await;
    for _ in 0..3 {
        browser.page("/ui").await;
    }
    let shop = app.with_key(secret);
    assert_eq!(shop.get("/v1/messages").await.status, 200);
    assert_eq!(shop.get("/v1/messages").await.status, 429, "the key has no limit");
    browser.page("/ui").await;
}

#[tokio::test]
async fn refreshes_do_not_prolong_a_session() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    for _ in 0..2 {
        app.clock.advance(TimeDelta::minutes(350));
        let refresh = browser.request(Method::GET, "/ui").header("hx-request", "true");
        assert_eq!(Page::to(refresh).await.status, 200);
    }
    app.clock.advance(TimeDelta::minutes(350));
    assert_eq!(browser.get("/ui").await.status, 303);
}

#[tokio::test]
async fn revoking_a_key_ends_its_sessions_at_once() {
    let app = TestApp::start().await;
    let created = app.post("/v1/keys", &json!({"name": "ops", "scopes": ["read"]})).await.body;
    let browser = Browser::signed_in(&app.base, created["secret"].as_str().unwrap()).await;
    browser.page("/ui/messages").await;
    assert_eq!(app.delete(&format!("/v1/keys/{}", created["id"].as_str().unwrap())).await.status, 204);
    assert_eq!(browser.get("/ui/messages").await.status, 303);
}

#[tokio::test]
async fn session_ends_after_12_hours_of_idleness_or_7_days() {
    let app = TestApp::start().await;
    let [idle, used] = [Browser::signed_in(&app.base, &app.key).await, Browser::signed_in(&app.base, &app.key).await];
    for _ in 0..15 {
        app.clock.advance(TimeDelta::hours(11));
        used.page("/ui/keys").await;
    }
    assert_eq!(idle.get("/ui/keys").await.status, 303);
    app.clock.advance(TimeDelta::hours(4));
    assert_eq!(used.get("/ui/keys").await.status, 303, "after 169 hours");
}

#[tokio::test]
async fn session_works_on_every_replica() {
    let app = TestApp::start().await;
    let mut browser = Browser::signed_in(&app.base, &app.key).await;
    let (other, api) = app.another_api().await;
    let token = browser.cookie.take().unwrap().split_once('=').unwrap().1.to_owned();
    let mut there = Browser::open(&api.base);
    there.cookie = Some(format!("postrider-{}={token}", api.base.rsplit_once(':').unwrap().1));
    there.page("/ui/messages").await;
    other.stop().await;
}

#[tokio::test]
async fn refresh_of_a_part_without_a_session_leads_to_the_sign_in() {
    let app = TestApp::start().await;
    let request = Browser::open(&app.base).request(Method::GET, "/ui/messages/msg_1/row").header("hx-request", "true");
    let page = Page::to(request.header("hx-current-url", format!("{}/ui/messages?q=a", app.base))).await;
    assert_eq!((page.status, page.header("hx-redirect")), (401, "/ui/login?next=%2Fui%2Fmessages%3Fq%3Da"));
}

#[tokio::test]
async fn tokens_are_stored_as_hashes() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let token = browser.cookie.unwrap().split_once('=').unwrap().1.to_owned();
    let stored: Vec<(Vec<u8>,)> = sqlx::query_as("SELECT token_hash FROM dashboard_sessions")
        .fetch_all(&mut app.database.connect().await)
        .await
        .unwrap();
    assert_eq!((stored.len(), stored[0].0.len(), token.len()), (1, 32, 64));
    assert_ne!(stored[0].0, token.as_bytes());
}

#[tokio::test]
async fn dashboard_can_be_turned_off() {
    let app = TestApp::builder().config(|config| config.dashboard.enabled = false).start().await;
    let response = Page::to(app.anonymous(Method::GET, "/ui/login")).await;
    assert_eq!((response.status, response.header("content-type")), (404, "application/problem+json"));
}
