//! A service with data on every page, in which every text of strangers is hostile.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::receiving::{deliver, received, route};
use crate::support::app::TestApp;
use crate::support::hooks;
use crate::support::receiver::{Receiver, Reply};

/// Would run, or add an element or an attribute, if a page did not escape it.
pub const HOSTILE: &str = "\"><img src=x onerror=\"window.hacked=1\"><script>window.hacked=1</script>' onmouseover=window.hacked=1 hx-get='/x' {{7*7}}";

/// The service, and the path of every page.
pub struct Filled {
    pub app: TestApp,
    pub paths: Vec<String>,
    _hook: Receiver,
}

/// The sections for a key with all scopes. The inbox is only in `dev`.
const SECTIONS: [&str; 16] = [
    "",
    "/messages",
    "/received",
    "/bulks",
    "/templates",
    "/lanes",
    "/streams",
    "/suppressions",
    "/domains",
    "/inbound-routes",
    "/webhooks",
    "/keys",
    "/audit",
    "/tenants",
    "/service",
    "/actions",
];

/// Returns a MIME message with a text in every field that a page shows.
pub fn mime_with(text: &str) -> String {
    let word = format!("=?utf-8?b?{}?=", STANDARD.encode(text));
    let name: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
    format!(
        "From: {word} <ann@example.test>\r\nSubject: {word}\r\nX-Note: {text}\r\nAuto-Submitted: auto-replied\r\n\
         Content-Type: multipart/mixed; boundary=m\r\n\r\n\
         --m\r\nContent-Type: text/plain\r\n\r\n{text}\r\n\
         --m\r\nContent-Type: text/html\r\n\r\n{text}\r\n\
         --m\r\nContent-Type: application/pdf\r\nContent-Disposition: attachment; filename*=utf-8''{name}\r\n\
         Content-Transfer-Encoding: base64\r\n\r\nSGk=\r\n--m--\r\n"
    )
}

/// Starts the service, and puts the hostile text into every field that takes it.
pub async fn filled() -> Filled {
    let builder = hooks::builder()
        .with_inbound()
        .config(|config| config.secret_key = Some("a secret of the tests".repeat(2).into()));
    let (app, hook) = (builder.start().await, Receiver::start().await);
    hook.always("/hook", Reply::Text(500, HOSTILE));
    let endpoint = app.post("/v1/webhooks", &json!({"url": hook.url("/hook"), "description": HOSTILE})).await;
    app.smtp.rcpt("ann@example.test").replies([&*format!("451 4.3.2 {HOSTILE}")]);
    let attachment = json!({"filename": format!("{HOSTILE}.txt"), "content": "SGk="});
    let sent = app
        .send(json!({
            "from": {"email": "billing@acme.test", "name": HOSTILE}, "subject": HOSTILE, "text": HOSTILE, "html": HOSTILE,
            "tags": [{"name": "order", "value": "42"}], "metadata": {"note": HOSTILE}, "headers": {"X-Note": "<b onclick=hack()>"},
            "attachments": [attachment],
        }))
        .await;
    app.run_until_idle().await;
    app.notify().await;
    app.post("/v1/suppressions", &json!({"address": "bo@example.test", "note": HOSTILE})).await;
    let key = app.post("/v1/keys", &json!({"name": HOSTILE})).await.body["id"].as_str().unwrap().to_owned();
    app.post("/v1/streams/bulk/pause", &json!({"reason": HOSTILE})).await;
    app.post("/v1/domains", &json!({"name": "acme.test"})).await;
    let template = json!({"name": HOSTILE, "subject": HOSTILE, "text": HOSTILE, "html": HOSTILE});
    let template = app.post("/v1/templates", &template).await.body["id"].as_str().unwrap().to_owned();
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/lanes/{lane}/pause"), &json!({"reason": HOSTILE})).await;
    let tenant = app.post("/v1/tenants", &json!({"name": HOSTILE})).await.body["id"].as_str().unwrap().to_owned();
    app.post(&format!("/v1/tenants/{tenant}/suspend"), &json!({"reason": HOSTILE})).await;
    let action = json!({"action": "release", "filter": {"subject": HOSTILE}});
    let action = app.post("/v1/messages/actions", &action).await.body["id"].as_str().unwrap().to_owned();
    let (matches, from) = (format!("{}@{}.test", "a".repeat(60), "b".repeat(60)), "ann@example.test");
    let route = route(&app, &matches, "store").await["id"].as_str().unwrap().to_owned();
    deliver(&app, from, &[&matches], &mime_with(HOSTILE)).await;
    let received = format!("/ui/received/{}", received(&app).await[0]["id"].as_str().unwrap());
    let message = format!("/ui/messages/{}", sent.id);
    let query: String = url::form_urlencoded::byte_serialize(HOSTILE.as_bytes()).collect();
    let mut paths: Vec<String> = SECTIONS.iter().map(|section| format!("/ui{section}")).collect();
    paths.extend(["text", "headers", "attachments"].map(|tab| format!("{message}?tab={tab}")));
    paths.extend(["1h", "7d", "30d"].map(|range| format!("/ui?range={range}")));
    paths.extend([message, format!("/ui/messages?q={query}"), format!("/ui/templates/{template}")]);
    paths.extend([format!("/ui/keys/{key}"), format!("/ui/tenants/{tenant}"), format!("/ui/actions/{action}")]);
    let webhook = endpoint.body["id"].as_str().unwrap();
    let delivery = app.get(&format!("/v1/webhooks/{webhook}/deliveries")).await.body["data"][0].clone();
    let (id, seq) = (delivery["id"].as_str().unwrap(), &delivery["seq"]);
    paths.push(format!("/ui/webhooks/{webhook}/request?seq={seq}&events=1&id={id}"));
    paths.push(format!("/ui/webhooks/{webhook}"));
    paths.push("/ui/domains/acme.test".to_owned());
    paths.extend(["text", "reply", "headers", "attachments"].map(|tab| format!("{received}?tab={tab}")));
    paths.extend([received, format!("/ui/inbound-routes/{route}"), format!("/ui/received?route={route}")]);
    Filled { app, paths, _hook: hook }
}
