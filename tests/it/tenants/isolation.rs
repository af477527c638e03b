//! A live key and a test key of one tenant, on every operation and every object of another tenant: nothing is shown, and nothing
//! changes.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use super::{PATH, Tenant, key, tenant};
use crate::support::app::TestApp;
use crate::support::client::{Api, ApiResponse, message};
use crate::support::reports::{complaint, dsn, failed};
use crate::support::until::until;
use crate::support::uploads::{put, sha256};

/// A text that is in everything that the victim stores.
const MARK: &str = "zzvictim";
/// The victim's file.
const FILE: &[u8] = b"the file of zzvictim";

/// The objects of the victim: what takes the place of each parameter of a path, by the path's resource.
struct Victim {
    tenant: Tenant,
    message: String,
    /// The return path of the message.
    return_path: String,
    ids: BTreeMap<&'static str, String>,
}

fn id(response: &ApiResponse) -> String {
    assert!(response.status < 300, "{}", response.body);
    response.body["id"].as_str().unwrap().to_owned()
}

impl Victim {
    async fn new(app: &TestApp) -> Self {
        let tenant = tenant(app, MARK, json!({})).await;
        let api = &tenant.api;
        let domain = format!("{MARK}.test");
        let name = json!({"name": domain});
        assert_eq!(api.post("/v1/domains", &name).await.status, 201);
        assert_eq!(api.post("/v1/streams", &json!({"name": MARK})).await.status, 201);
        let hook = json!({"url": format!("http://127.0.0.1:9/{MARK}"), "description": MARK});
        let webhook = id(&api.post("/v1/webhooks", &hook).await);
        let template = json!({"name": MARK, "alias": MARK, "subject": MARK, "html": format!("<p>{MARK}</p>")});
        let template = id(&api.post("/v1/templates", &template).await);
        assert!(api.post(&format!("/v1/templates/{template}/publish"), &json!({})).await.status < 300);
        let address = format!("ann@{domain}");
        let entry = json!([{"address": address, "note": MARK}]);
        assert_eq!(api.post("/v1/suppressions", &entry).await.status, 200);
        assert!(put(api, FILE).await.status < 300);
        let key = api.post("/v1/keys", &json!({"name": MARK})).await;
        let file = json!([{"filename": format!("{MARK}.txt"), "sha256": sha256(FILE)}]);
        let fields = json!({"from": format!("a@{domain}"), "to": format!("bo@{domain}"), "subject": MARK, "text": MARK,
                            "attachments": file, "stream": MARK});
        let sent = api.send(fields).await;
        app.run_until_idle().await;
        let return_path = app.smtp.messages().pop().unwrap().from;
        let waiting = json!({"from": format!("a@{domain}"), "subject": MARK, "text": MARK,
                             "scheduled_at": app.clock.text_in(crate::support::clock::hours(1)),
                             "recipients": [{"to": format!("cy@{domain}")}]});
        let bulk = id(&api.post("/v1/messages/bulk", &waiting).await);
        until("the bulk is a message", Duration::from_secs(20), async || {
            let listed = api.get(&format!("/v1/messages?bulk={bulk}")).await.body["data"].as_array().unwrap().len();
            if listed == 1 { Ok(()) } else { Err(listed) }
        })
        .await;
        let filter = json!({"action": "retry", "filter": {"stream": MARK, "subject": MARK}});
        let action = id(&api.post("/v1/messages/actions", &filter).await);
        until("the action has ended", Duration::from_secs(20), async || {
            let action = api.get(&format!("/v1/actions/{action}")).await.body;
            if action["status"] == "done" { Ok(()) } else { Err(action) }
        })
        .await;
        let erasure = id(&api.post("/v1/privacy/erase", &json!({"address": format!("zoe@{domain}")})).await);
        until("the erasure has ended", Duration::from_secs(20), async || {
            let erasure = api.get(&format!("/v1/privacy/erasures/{erasure}")).await.body;
            if erasure["status"] == "done" { Ok(()) } else { Err(erasure) }
        })
        .await;
        let route = json!({"match": format!("*@in.{domain}"), "action": {"type": "webhook"}});
        let route = id(&api.post("/v1/inbound-routes", &route).await);
        let mail = format!("From: {MARK} <a@{domain}>\r\nSubject: {MARK}\r\n\r\n{MARK}\r\n");
        assert!(app.deliver_bounce(&format!("hi@in.{domain}"), &mail).await.starts_with("250"));
        let received = api.get("/v1/received").await.body["data"][0]["id"].as_str().unwrap().to_owned();
        let lane = api.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
        let ids = BTreeMap::from([
            ("messages", sent.id.clone()),
            ("bulks", bulk),
            ("actions", action),
            ("privacy", erasure),
            ("webhooks", webhook),
            ("templates", template),
            ("keys", id(&key)),
            ("lanes", lane),
            ("tenants", tenant.id.clone()),
            ("streams", MARK.to_owned()),
            ("domains", domain),
            ("suppressions", address),
            ("inbound-routes", route),
            ("received", received),
            ("blobs", sha256(FILE)),
        ]);
        Self { message: sent.id, return_path, ids, tenant }
    }

    /// Returns everything that the victim can read.
    async fn data(&self) -> BTreeMap<String, Value> {
        let mut data = BTreeMap::new();
        let of_message = ["", "/events"].map(|rest| format!("/v1/messages/{}{rest}", self.message));
        let lists = [
            "messages",
            "messages/rejected",
            "bulks",
            "actions",
            "privacy/erasures",
            "audit",
            "webhooks",
            "templates",
            "lanes",
            "streams",
            "domains",
            "suppressions",
            "inbound-routes",
            "received",
            "events",
            "ledger",
        ];
        for path in lists.iter().map(|list| format!("/v1/{list}")).chain(of_message) {
            let response = self.tenant.api.get(&path).await;
            assert_eq!(response.status, 200, "{path}: {}", response.body);
            data.insert(path, response.body);
        }
        data
    }

    /// Returns the path of an operation on the victim's objects.
    fn path(&self, template: &str) -> String {
        let resource = template.split('/').nth(2).unwrap_or_default();
        let object = self.ids.get(resource).map_or("", String::as_str);
        let path = ["{id}", "{name}", "{address}", "{sha256}"]
            .iter()
            .fold(template.to_owned(), |path, parameter| path.replace(parameter, object));
        // The first attachment of a message, and the first version of a template.
        path.replace("{n}", if resource == "templates" { "1" } else { "0" })
    }

    /// Returns whether a response contains anything of the victim.
    fn is_in(&self, response: &ApiResponse) -> bool {
        let text = String::from_utf8_lossy(&response.bytes);
        let headers = format!("{:?}", response.headers);
        let ids = self.ids.values().filter(|id| id.contains('_')).any(|id| text.contains(id.as_str()));
        ids || text.contains(MARK) || headers.contains(MARK)
    }
}

/// Starts the service with everything that an operation could need.
async fn start() -> TestApp {
    let builder = TestApp::builder().with_inbound();
    builder
        .config(|config| {
            config.webhooks.allow_private = true;
            config.public_url = Some("https://mail.acme.test".parse().unwrap());
        })
        .start()
        .await
}

/// Returns the operations of the OpenAPI document: name, method, path, and the example of a JSON body.
fn operations() -> Vec<(String, Method, String, Value)> {
    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let example = operation["requestBody"]["content"]["application/json"]["example"].clone();
            let name = operation["operationId"].as_str().unwrap().to_owned();
            found.push((name, method.to_uppercase().parse().unwrap(), path.clone(), example));
        }
    }
    found.sort_by_key(|(name, ..)| match name.as_str() {
        // The other tenant's log names the objects of its refused requests.
        "list_audit" => 0,
        // It gives the other tenant the same file.
        "upload_blob" => 2,
        _ => 1,
    });
    found
}

/// Operations without an API key: probes, and the routes of `postrider dev`.
fn needs_no_key(path: &str) -> bool {
    !path.starts_with("/v1/") || path.starts_with("/v1/dev/")
}

#[tokio::test]
async fn every_operation_hides_and_keeps_the_data_of_other_tenants() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let test = key(&app, &other.id, json!({"mode": "test", "scopes": ["send", "read", "admin"]})).await;
    let before = victim.data().await;
    let (mut wrong, mut checked) = (Vec::new(), 0);
    let test = app.with_key(&test);
    for (name, method, template, example) in operations() {
        if needs_no_key(&template) {
            continue;
        }
        let path = victim.path(&template);
        assert!(!path.contains('{'), "{path} has a parameter that this test does not fill in");
        for api in [&other.api, &test] {
            let mut request = api.request(method.clone(), &path);
            if !matches!(method, Method::GET | Method::HEAD) && name != "upload_blob" {
                request = request.json(&example);
            } else if name == "upload_blob" {
                request = request.body(FILE);
            }
            let response = ApiResponse::to(request).await;
            // A tenant that has the same file may upload it, and gets a file of its own.
            let is_refused = matches!(response.status, 403 | 404) || name == "upload_blob";
            if victim.is_in(&response) || (template.contains('{') && !is_refused) {
                wrong.push(format!("{name}: {} {}", response.status, String::from_utf8_lossy(&response.bytes)));
            }
        }
        checked += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(checked > 60, "{checked} operations");
    assert_eq!(victim.data().await, before, "the calls changed something");
}

#[tokio::test]
async fn lists_with_filters_show_nothing_of_other_tenants() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let (ids, message) = (&victim.ids, &victim.message);
    for path in [
        format!("/v1/messages?bulk={}", ids["bulks"]),
        format!("/v1/messages?lane={}", ids["lanes"]),
        format!("/v1/messages?key={}", ids["keys"]),
        format!("/v1/messages?template={}", ids["templates"]),
        format!("/v1/messages?to=bo@{}", ids["domains"]),
        format!("/v1/messages?subject={MARK}&stream={MARK}"),
        format!("/v1/messages?after={message}"),
        format!("/v1/events?message_id={message}"),
        "/v1/events?after=0&limit=1000".into(),
        format!("/v1/lanes?stream={MARK}"),
        format!("/v1/suppressions?address=ann@{}", ids["domains"]),
        format!("/v1/suppressions/export?stream={MARK}"),
        "/v1/suppressions/export".into(),
        format!("/v1/messages/export?stream={MARK}"),
        format!("/v1/messages/export?after={message}&format=csv"),
        "/v1/actions".into(),
        "/v1/messages/rejected".into(),
        "/v1/privacy/erasures".into(),
        format!("/v1/audit?object={}", ids["webhooks"]),
        "/v1/audit?action=create_webhook".into(),
        format!("/v1/keys?after={}", ids["keys"]),
        format!("/v1/webhooks/{}/deliveries", ids["webhooks"]),
        format!("/v1/received?route={}", ids["inbound-routes"]),
        format!("/v1/received?after={}", ids["received"]),
    ] {
        let response = other.api.get(&path).await;
        // An error may quote the request.
        let is_shown = response.status < 400 && victim.is_in(&response);
        assert!(!is_shown, "{path}: {}", String::from_utf8_lossy(&response.bytes));
    }
    assert_eq!(other.api.get("/v1/ledger").await.body["accepted"], 0);
    let keys = other.api.get(&format!("/v1/keys?tenant={}", ids["tenants"])).await;
    assert_eq!(keys.problem(), (403, "forbidden"));
}

#[tokio::test]
async fn event_stream_has_only_the_tenants_own_events() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let own = other.api.send(json!({})).await;
    let request = other.api.request(Method::GET, "/v1/events?after=0").header("accept", "text/event-stream");
    let mut response = request.send().await.unwrap();
    let mut text = String::new();
    while !text.contains(&own.id) {
        text.push_str(&String::from_utf8_lossy(&response.chunk().await.unwrap().expect("an event")));
    }
    assert!(!text.contains(MARK) && !text.contains(&victim.message), "{text}");
}

#[tokio::test]
async fn requests_cannot_use_objects_of_other_tenants() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let send = async |fields: Value| other.api.post("/v1/messages", &message(fields)).await;
    let template = send(json!({"subject": null, "text": null, "template": {"id": victim.ids["templates"]}})).await;
    assert!(template.faults().contains(&("/template/id", "unknown_template")), "{}", template.body);
    let alias = send(json!({"subject": null, "text": null, "template": {"id": MARK}})).await;
    assert!(alias.faults().contains(&("/template/id", "unknown_template")), "{}", alias.body);
    let file = send(json!({"attachments": [{"filename": "a", "sha256": sha256(FILE)}]})).await;
    assert_eq!(file.faults(), [("/attachments/0/sha256", "unknown_blob")]);
    let stream = send(json!({"stream": MARK})).await;
    assert_eq!(stream.faults(), [("/stream", "unknown_stream")]);
    let action = |filter: Value| json!({"action": "cancel", "filter": filter, "dry_run": true});
    for filter in [json!({"lane": victim.ids["lanes"]}), json!({"bulk": victim.ids["bulks"]})] {
        let preview = other.api.post("/v1/messages/actions", &action(filter)).await;
        assert_eq!((preview.status, &preview.body["matched"]), (200, &json!(0)), "{}", preview.body);
    }
    let preview = other.api.post("/v1/messages/actions", &action(json!({"template": MARK}))).await;
    assert_eq!(preview.faults(), [("/filter/template", "unknown_template")]);
    let reply = send(json!({"in_reply_to": victim.message})).await;
    assert_eq!(reply.status, 422, "{}", reply.body);
    let layout = other.api.post("/v1/templates", &json!({"name": "x", "layout": victim.ids["templates"]})).await;
    assert_eq!(layout.status, 422, "{}", layout.body);
    let lane = json!({"stream": MARK, "route": "relay", "domain": "*", "rate": 1});
    let put = ApiResponse::to(other.api.request(Method::PUT, "/v1/lanes").json(&lane)).await;
    assert!(matches!(put.status, 404 | 422), "{}", put.body);
    // Suppressions of one tenant do not affect another one.
    let sent = other.api.send(json!({"to": victim.ids["suppressions"]})).await;
    app.run_until_idle().await;
    assert_eq!(other.api.status(&sent.id).await, "relayed");
}

#[tokio::test]
async fn reports_by_another_tenant_change_nothing() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let before = victim.data().await;
    let path = &victim.return_path;
    let address = format!("bo@{}", victim.ids["domains"]);
    for mime in [dsn(None, Some(path), &[failed(&address)]), complaint(path)] {
        let recipient = path.replace('+', "%2B");
        for query in [String::new(), format!("?recipient={recipient}"), "?dry_run=true".into()] {
            let request = other.api.request(Method::POST, &format!("/v1/inbound{query}"));
            let response = ApiResponse::to(request.header("content-type", "message/rfc822").body(mime.clone())).await;
            assert_eq!((response.status, &response.body["applied"]), (200, &json!(false)), "{}", response.body);
            assert_eq!((&response.body["message_id"], &response.body["reason"]), (&json!(null), &json!("no_message")));
        }
    }
    assert_eq!(victim.data().await, before);
}

#[tokio::test]
async fn unsubscribing_affects_one_tenant() {
    let app = start().await;
    let (one, other) = (tenant(&app, "one", json!({})).await, tenant(&app, "other", json!({})).await);
    for tenant in [&one, &other] {
        let changed = tenant.api.patch("/v1/streams/bulk", &json!({"unsubscribe": true})).await;
        assert_eq!(changed.status, 200, "{}", changed.body);
        tenant.api.send(json!({"stream": "bulk"})).await;
    }
    app.run_until_idle().await;
    let raw = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap().replace("\r\n ", " ");
    let link = raw.split("https://mail.acme.test").nth(1).unwrap().split('>').next().unwrap().to_owned();
    let click = app.anonymous(Method::POST, &link).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    let done = click.body("List-Unsubscribe=One-Click").send().await.unwrap();
    assert!(done.status().is_success(), "{link}");
    let suppressed = async |api: &Api| api.get("/v1/suppressions").await.body["data"].as_array().unwrap().len();
    let counts = [suppressed(&one.api).await, suppressed(&other.api).await];
    assert_eq!(counts.iter().sum::<usize>(), 1, "{counts:?}");

    // The link works, and changes nothing, once the tenant is deleted.
    for tenant in [&one, &other] {
        app.delete(&format!("{PATH}/{}", tenant.id)).await;
    }
    app.clock.advance(crate::support::clock::seconds(11));
    app.worker.delete_tenants().await.unwrap();
    let click = app.anonymous(Method::POST, &link).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    assert!(click.body("List-Unsubscribe=One-Click").send().await.unwrap().status().is_success());
}

#[tokio::test]
async fn resend_api_hides_the_data_of_other_tenants() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    let other = tenant(&app, "other", json!({})).await;
    let uuid = |name: &str| uuid::Uuid::parse_str(victim.ids[name].split('_').nth(1).unwrap()).unwrap();
    let (message, key, webhook, template) = (uuid("messages"), uuid("keys"), uuid("webhooks"), uuid("templates"));
    // Posting fails, because nothing listens there.
    app.notify().await;
    let posted = victim.tenant.api.request(Method::GET, &format!("/webhooks/{webhook}/events"));
    let posted: Value = posted.send().await.unwrap().json().await.unwrap();
    let event = posted["data"][0]["id"].as_str().expect("an event");
    let before = victim.data().await;
    for path in ["/emails", "/domains", "/api-keys", "/templates", "/webhooks", "/suppressions"] {
        let response = other.api.request(Method::GET, path).send().await.unwrap();
        let text = response.text().await.unwrap();
        assert!(!text.contains(MARK) && !text.contains(&message.to_string()), "{path}: {text}");
    }
    for (method, path) in [
        (Method::GET, format!("/emails/{message}")),
        (Method::PATCH, format!("/emails/{message}")),
        (Method::POST, format!("/emails/{message}/cancel")),
        (Method::GET, format!("/emails/{message}/attachments")),
        (Method::DELETE, format!("/api-keys/{key}")),
        (Method::GET, format!("/webhooks/{webhook}")),
        (Method::GET, format!("/webhooks/{webhook}/events")),
        (Method::GET, format!("/webhooks/{webhook}/events/{event}")),
        (Method::GET, format!("/webhooks/{webhook}/events/{event}/attempts")),
        (Method::POST, format!("/webhooks/{webhook}/events/{event}/replay")),
        (Method::POST, format!("/webhooks/{webhook}/signing-secret/rotate")),
        (Method::DELETE, format!("/webhooks/{webhook}")),
        (Method::GET, format!("/templates/{template}")),
        (Method::GET, format!("/templates/{MARK}")),
        (Method::DELETE, format!("/templates/{template}")),
    ] {
        let body = json!({"scheduled_at": app.clock.text_in(crate::support::clock::hours(2))});
        let response = other.api.request(method.clone(), &path).json(&body).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 404, "{method} {path}");
    }
    assert_eq!(victim.data().await, before);
}

#[tokio::test]
async fn operators_see_no_messages_of_other_tenants() {
    let app = start().await;
    let victim = Victim::new(&app).await;
    assert_eq!(app.get(&format!("{PATH}/{}", victim.tenant.id)).await.status, 200, "the key has the scope operator");
    for path in ["messages", "bulks", "actions", "webhooks", "templates", "lanes"] {
        let response = app.get(&format!("/v1/{path}/{}", victim.ids[path])).await;
        assert!(response.status == 404 && !victim.is_in(&response), "{path}: {}", response.body);
    }
}
