//! Calls every operation of the OpenAPI document with every kind of key, and compares the results with a table.

use std::collections::BTreeMap;
use std::sync::Arc;

use postrider::app::{App, Roles};
use postrider::clock::SystemClock;
use postrider::dev::inbox::Inbox;
use postrider::domain::key::{KeyMode, Scope};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::app::{TestApp, make_key, make_key_of};
use crate::support::client::{Api, ApiResponse, message};
use crate::support::clock::hours;

/// The kinds of keys; those with `@` are limited to the sender domain acme.test. Keys with `admin` and domains can no
/// longer be created, but may exist. `test` is a test key with the scope `admin`, and `other tenant` is a key of another
/// tenant with this scope.
const KEYS: [&str; 14] = [
    "none",
    "wrong",
    "revoked",
    "expired",
    "send",
    "read",
    "admin",
    "send@",
    "read@",
    "admin@",
    "operator",
    "test",
    "other tenant",
    "metadata",
];

/// The scope that each operation needs, and the access of a key with that scope and sender domains: `own` (only to data
/// of its domains; other data does not exist for it), `ok` (the same as without sender domains) or `403`.
const TABLE: &[(&str, Needs)] = &[
    ("healthz", Needs::Nothing),
    ("readyz", Needs::Nothing),
    ("list_inbox", Needs::Nothing),
    ("clear_inbox", Needs::Nothing),
    ("get_inbox_message", Needs::Nothing),
    ("get_inbox_attachment", Needs::Nothing),
    ("get_inbox_raw", Needs::Nothing),
    ("get_latest_inbox_message", Needs::Nothing),
    ("delete_inbox_message", Needs::Nothing),
    ("list_received_hooks", Needs::Nothing),
    ("clear_received_hooks", Needs::Nothing),
    ("send_message", Needs::Send("own")),
    ("send_batch", Needs::Send("own")),
    ("send_bulk", Needs::Send("own")),
    ("pause_bulk", Needs::Send("own")),
    ("resume_bulk", Needs::Send("own")),
    ("cancel_bulk", Needs::Send("own")),
    ("create_action", Needs::Send("ok")),
    ("cancel_action", Needs::Send("ok")),
    ("reschedule_message", Needs::Send("own")),
    ("cancel_message", Needs::Send("own")),
    ("retry_message", Needs::Send("own")),
    ("upload_blob", Needs::Send("ok")),
    ("check_blob", Needs::Send("ok")),
    ("add_suppressions", Needs::Send("403")),
    ("list_messages", Needs::Read("own")),
    ("export_messages", Needs::Read("ok")),
    ("list_rejected_messages", Needs::Read("ok")),
    ("list_actions", Needs::Read("ok")),
    ("get_action", Needs::Read("ok")),
    ("get_message", Needs::Read("own")),
    ("list_bulks", Needs::Read("own")),
    ("get_bulk", Needs::Read("own")),
    ("list_message_events", Needs::Read("own")),
    ("list_message_attempts", Needs::Read("own")),
    ("explain_message", Needs::Read("own")),
    ("get_message_raw", Needs::Content("own")),
    ("get_message_attachment", Needs::Content("own")),
    ("list_events", Needs::Read("own")),
    ("list_domains", Needs::Read("own")),
    ("get_domain", Needs::Read("own")),
    ("list_streams", Needs::Read("ok")),
    ("get_stream", Needs::Read("ok")),
    ("list_lanes", Needs::Read("403")),
    ("get_lane", Needs::Read("403")),
    ("get_ledger", Needs::Read("403")),
    ("get_statistics", Needs::Read("403")),
    ("list_suppressions", Needs::Read("403")),
    ("export_suppressions", Needs::Read("403")),
    ("get_suppression", Needs::Read("403")),
    ("list_inbound_routes", Needs::Read("403")),
    ("get_inbound_route", Needs::Read("403")),
    ("create_inbound_route", Needs::Admin),
    ("update_inbound_route", Needs::Admin),
    ("delete_inbound_route", Needs::Admin),
    ("list_received", Needs::Read("403")),
    ("get_received", Needs::Content("403")),
    ("get_received_raw", Needs::Content("403")),
    ("get_received_attachment", Needs::Content("403")),
    ("delete_received", Needs::Admin),
    ("list_webhooks", Needs::Read("403")),
    ("get_webhook", Needs::Read("403")),
    ("list_webhook_deliveries", Needs::Read("403")),
    ("list_templates", Needs::Read("403")),
    ("get_template", Needs::Read("403")),
    ("list_template_versions", Needs::Read("403")),
    ("get_template_version", Needs::Read("403")),
    ("preview_template", Needs::Read("403")),
    ("validate_template", Needs::Read("403")),
    ("create_template", Needs::LiveAdmin),
    ("update_template", Needs::LiveAdmin),
    ("publish_template", Needs::LiveAdmin),
    ("delete_template", Needs::LiveAdmin),
    ("create_domain", Needs::LiveAdmin),
    ("delete_domain", Needs::LiveAdmin),
    ("rotate_domain_keys", Needs::LiveAdmin),
    ("verify_domain", Needs::LiveAdmin),
    ("submit_report", Needs::Admin),
    ("redact_message", Needs::Admin),
    ("erase_address", Needs::Admin),
    ("get_erasure", Needs::Read("403")),
    ("list_erasures", Needs::Read("403")),
    ("list_audit", Needs::Admin),
    ("list_keys", Needs::Admin),
    ("create_key", Needs::LiveAdminOrOperator),
    ("revoke_key", Needs::LiveAdmin),
    ("get_key", Needs::Admin),
    ("update_key", Needs::LiveAdmin),
    ("set_lane_limits", Needs::Admin),
    ("update_lane", Needs::Admin),
    ("pause_lane", Needs::Admin),
    ("reset_lane", Needs::Admin),
    ("retry_lane", Needs::Admin),
    ("resume_lane", Needs::Admin),
    ("trace_lane", Needs::Admin),
    ("create_stream", Needs::LiveAdmin),
    ("update_stream", Needs::LiveAdmin),
    ("pause_stream", Needs::Admin),
    ("resume_stream", Needs::Admin),
    ("import_suppressions", Needs::Admin),
    ("remove_suppressions", Needs::Admin),
    ("remove_suppression", Needs::Admin),
    ("create_webhook", Needs::Admin),
    ("delete_webhook", Needs::Admin),
    ("update_webhook", Needs::Admin),
    ("replay_webhook", Needs::Admin),
    ("rotate_webhook_secret", Needs::Admin),
    ("test_webhook", Needs::Admin),
    ("advance_test_clock", Needs::TestKey),
    ("list_workers", Needs::Operator),
    ("get_service", Needs::Operator),
    ("list_tenants", Needs::Operator),
    ("create_tenant", Needs::Operator),
    ("get_tenant", Needs::Operator),
    ("update_tenant", Needs::Operator),
    ("suspend_tenant", Needs::Operator),
    ("resume_tenant", Needs::Operator),
    ("delete_tenant", Needs::Operator),
];

#[derive(Clone, Copy)]
enum Needs {
    Nothing,
    Send(&'static str),
    Read(&'static str),
    /// The scope `read`; `metadata` is not enough.
    Content(&'static str),
    Admin,
    /// The scope `admin`, and a live key.
    LiveAdmin,
    /// The same, or the scope `operator`, which needs a tenant in the body, too.
    LiveAdminOrOperator,
    Operator,
    /// The scope `send`, and a test key.
    TestKey,
}

impl Needs {
    /// Returns the expected result for each of [`KEYS`].
    fn cells(self) -> Vec<&'static str> {
        let (send, read, limited) = match self {
            Self::Nothing => return vec!["ok"; KEYS.len()],
            Self::Send(limited) => ("ok", "403", [limited, "403", limited]),
            Self::Read(limited) | Self::Content(limited) => ("403", "ok", ["403", limited, limited]),
            Self::Admin | Self::LiveAdmin | Self::LiveAdminOrOperator | Self::Operator | Self::TestKey => {
                ("403", "403", ["403"; 3])
            }
        };
        let has_admin = !matches!(self, Self::Operator | Self::TestKey);
        let has_operator = matches!(self, Self::Operator | Self::LiveAdminOrOperator);
        let has_test = !matches!(self, Self::LiveAdmin | Self::LiveAdminOrOperator | Self::Operator);
        let when = |is_allowed: bool, cell| if is_allowed { cell } else { "403" };
        let (admin, operator, test) = (when(has_admin, "ok"), when(has_operator, "ok"), when(has_test, "ok"));
        let mut cells = vec!["401", "401", "401", "401", send, read, admin];
        cells.extend(limited);
        cells.extend([operator, test, when(has_admin, "own")]);
        cells.push(when(matches!(self, Self::Read(_)), "ok"));
        cells
    }
}

/// Returns a bulk from this domain.
fn bulk(domain: &str) -> Value {
    json!({"from": format!("a@{domain}"), "subject": "", "text": "Hi", "recipients": [{"to": "bo@example.test"}]})
}

/// A sender domain with its data.
struct Site {
    domain: &'static str,
    message: String,
    bulk: String,
}

impl Site {
    async fn new(app: &TestApp, domain: &'static str) -> Self {
        let file = json!([{"filename": "a.txt", "content": "YQ=="}]);
        let sent = app.send(json!({"from": format!("a@{domain}"), "attachments": file})).await;
        assert_eq!(app.post("/v1/domains", &json!({"name": domain})).await.status, 201);
        let bulk = app.post("/v1/messages/bulk", &bulk(domain)).await.body["id"].as_str().unwrap().to_owned();
        Self { domain, message: sent.id, bulk }
    }

    async fn call(&self, api: &Api, method: &Method, template: &str, ids: &BTreeMap<&str, String>) -> ApiResponse {
        let (none, path) = ("00000000000070008000000000000000", template.split('/').nth(2).unwrap_or_default());
        let is_read = *method == Method::GET;
        let id = match path {
            "messages" => self.message.clone(),
            "bulks" => self.bulk.clone(),
            "lanes" => ids["lane"].clone(),
            "webhooks" if is_read => ids["webhook"].clone(),
            "webhooks" => format!("wh_{none}"),
            "inbound-routes" => format!("irt_{none}"),
            "received" => format!("rcv_{none}"),
            "tenants" => format!("ten_{none}"),
            "actions" => format!("act_{none}"),
            "privacy" => format!("era_{none}"),
            _ => format!("key_{none}"),
        };
        let name = match (path, is_read) {
            ("streams", _) => "transactional",
            (_, true) => self.domain,
            _ => "none.test",
        };
        let path = template.replace("{id}", &id).replace("{name}", name).replace("{address}", "bo@example.test");
        let path = path.replace("{n}", "0").replace("{i}", "0");
        let body = match (method.as_str(), &*path) {
            ("POST", "/v1/messages") => message(json!({"from": format!("a@{}", self.domain)})),
            ("POST", "/v1/messages/batch") => json!([message(json!({"from": format!("a@{}", self.domain)}))]),
            ("POST", "/v1/messages/bulk") => bulk(self.domain),
            _ => json!({}),
        };
        let request =
            if api.key.is_empty() { api.anonymous(method.clone(), &path) } else { api.request(method.clone(), &path) };
        ApiResponse::to(request.json(&body)).await
    }

    /// Returns whether a response contains data of this sender domain.
    fn is_in(&self, response: &ApiResponse) -> bool {
        let items = response.body["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().any(|item| {
            item["id"] == self.message
                || item["id"] == self.bulk
                || item["data"]["message_id"] == self.message
                || item["name"] == self.domain
        })
    }
}

async fn cell(api: &Api, method: &Method, path: &str, sites: &[Site; 2], ids: &BTreeMap<&str, String>) -> &'static str {
    let own = sites[0].call(api, method, path, ids).await;
    match own.status {
        401 => return "401",
        403 => return "403",
        _ => {}
    }
    let other = sites[1].call(api, method, path, ids).await;
    let is_refused = matches!(other.status, 403 | 404) && !matches!(own.status, 403 | 404);
    let is_omitted = !path.contains('{') && sites[0].is_in(&own) && !sites[1].is_in(&own);
    if is_refused || is_omitted { "own" } else { "ok" }
}

/// Returns the cell of an admin key of another tenant: `own` if it is shown nothing of the sites and finds none of their
/// objects. Each tenant has a stream with the name in the path.
async fn cell_of_other(
    api: &Api,
    method: &Method,
    path: &str,
    site: &Site,
    ids: &BTreeMap<&str, String>,
) -> &'static str {
    let response = site.call(api, method, path, ids).await;
    match response.status {
        401 => return "401",
        403 => return "403",
        _ => {}
    }
    let is_found = path.contains('{') && !path.starts_with("/v1/streams/") && response.status < 400;
    if is_found || site.is_in(&response) { "ok" } else { "own" }
}

async fn keys(app: &TestApp) -> Vec<String> {
    let create = async |body: Value| app.post("/v1/keys", &body).await.body;
    let secret = |body: &Value| body["secret"].as_str().unwrap().to_owned();
    let revoked = create(json!({"name": "revoked"})).await;
    app.delete(&format!("/v1/keys/{}", revoked["id"].as_str().unwrap())).await;
    let expired = create(json!({"name": "expired", "expires_at": app.clock.text_in(hours(1))})).await;
    app.clock.advance(hours(2));
    let mut keys = vec![String::new(), "pr_0000".into(), secret(&revoked), secret(&expired)];
    for domains in [None, Some(&["acme.test"][..])] {
        for scope in [Scope::Send, Scope::Read, Scope::Admin] {
            keys.push(make_key(&app.db, &*app.clock, &[scope], domains).await);
        }
    }
    keys.push(make_key(&app.db, &*app.clock, &[Scope::Operator], None).await);
    keys.push(make_key_of(KeyMode::Test, &app.db, &*app.clock, &[Scope::Admin], None).await);
    let tenant = app.post("/v1/tenants", &json!({"name": "other"})).await.body["id"].clone();
    keys.push(secret(&create(json!({"name": "other", "tenant": tenant, "scopes": ["admin"]})).await));
    keys.push(make_key(&app.db, &*app.clock, &[Scope::Metadata], None).await);
    keys
}

#[tokio::test]
async fn every_operation_matches_the_scope_matrix() {
    let secret = Some("a secret that only the tests of this project use".to_owned().into());
    let app = TestApp::builder()
        .config(|config| {
            (config.secret_key, config.webhooks.allow_private) = (secret, true);
            // Each operation is called with three invalid keys.
            config.http.auth_failures_per_minute = 10_000;
        })
        .start()
        .await;
    let dir = tempfile::tempdir().unwrap();
    let inbox = Inbox::open(dir.path(), Arc::new(SystemClock)).await.unwrap();
    let with_inbox = App::start(&app.config, Roles::Api, app.clock.clone(), Some(inbox)).await.unwrap();
    let keys = keys(&app).await;
    let sites = [Site::new(&app, "acme.test").await, Site::new(&app, "other.test").await];
    let webhook = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.body["id"].clone();
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].clone();
    let ids = [("webhook", webhook), ("lane", lane)].map(|(name, id)| (name, id.as_str().unwrap().to_owned())).into();

    let document = serde_json::to_value(postrider::http::document()).unwrap();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    println!("| operation | {} |\n|---|{}", KEYS.join(" | "), "---|".repeat(KEYS.len()));
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let name = operation["operationId"].as_str().unwrap();
            let needs = TABLE.iter().find(|(operation, _)| *operation == name).map(|(_, needs)| *needs);
            let is_open = matches!(needs, Some(Needs::Nothing));
            let mut cells = Vec::new();
            for (kind, key) in KEYS.iter().zip(&keys) {
                let api = Api::new(format!("http://{}", with_inbox.api_address().unwrap()), key.clone());
                cells.push(match *kind {
                    "other tenant" if !is_open => cell_of_other(&api, &method, path, &sites[0], &ids).await,
                    _ => cell(&api, &method, path, &sites, &ids).await,
                });
            }
            println!("| {method} {path} | {} |", cells.join(" | "));
            let expected = needs.map(Needs::cells);
            if expected.as_ref() != Some(&cells) {
                wrong.push(format!("{name}: {cells:?}, not {expected:?}"));
            }
            checked += 1;
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(checked, TABLE.len());
    with_inbox.stop().await;
}
