//! Every action of the dashboard, by keys that may do it and keys that may not, and from pages of other sites.

use std::collections::BTreeSet;

use postrider::domain::key::Scope;
use serde_json::json;

use super::browser::{Browser, Page};
use crate::receiving::{deliver, route};
use crate::support::app::TestApp;
use crate::support::hooks;
use crate::tenants::tenant;

/// What an action needs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Look,
    Send,
    Admin,
    Operator,
}

/// The path of each action, with what it needs. The objects do not exist: a key that may act finds nothing.
const ACTIONS: &[(&str, Needs)] = &[
    ("/ui/messages/ID/retry", Needs::Send),
    ("/ui/messages/ID/cancel", Needs::Send),
    ("/ui/messages/ID/redact", Needs::Admin),
    ("/ui/actions", Needs::Send),
    ("/ui/actions/count", Needs::Send),
    ("/ui/actions/ID/cancel", Needs::Send),
    ("/ui/bulks/ID/pause", Needs::Send),
    ("/ui/bulks/ID/resume", Needs::Send),
    ("/ui/bulks/ID/cancel", Needs::Send),
    ("/ui/suppressions", Needs::Send),
    ("/ui/templates/ID/test", Needs::Send),
    ("/ui/suppressions/remove", Needs::Admin),
    ("/ui/suppressions/import", Needs::Admin),
    ("/ui/templates", Needs::Admin),
    ("/ui/templates/ID", Needs::Admin),
    ("/ui/templates/ID/publish", Needs::Admin),
    ("/ui/templates/ID/delete", Needs::Admin),
    ("/ui/lanes/lane_1/pause", Needs::Admin),
    ("/ui/lanes/lane_1/resume", Needs::Admin),
    ("/ui/lanes/lane_1/reset", Needs::Admin),
    ("/ui/lanes/lane_1/retry", Needs::Admin),
    ("/ui/lanes/lane_1/trace", Needs::Admin),
    ("/ui/lanes/lane_1/limits", Needs::Admin),
    ("/ui/streams", Needs::Admin),
    ("/ui/streams/none/pause", Needs::Admin),
    ("/ui/streams/none/resume", Needs::Admin),
    ("/ui/streams/none/settings", Needs::Admin),
    ("/ui/domains", Needs::Admin),
    ("/ui/domains/none.test/verify", Needs::Admin),
    ("/ui/domains/none.test/rotate", Needs::Admin),
    ("/ui/domains/none.test/remove", Needs::Admin),
    ("/ui/received/ID/delete", Needs::Admin),
    ("/ui/inbound-routes", Needs::Admin),
    ("/ui/inbound-routes/ID/edit", Needs::Admin),
    ("/ui/inbound-routes/ID/delete", Needs::Admin),
    ("/ui/webhooks", Needs::Admin),
    ("/ui/webhooks/ID/test", Needs::Admin),
    ("/ui/webhooks/ID/enable", Needs::Admin),
    ("/ui/webhooks/ID/disable", Needs::Admin),
    ("/ui/webhooks/ID/replay", Needs::Admin),
    ("/ui/webhooks/ID/rotate", Needs::Admin),
    ("/ui/keys", Needs::Admin),
    ("/ui/keys/ID/limits", Needs::Admin),
    ("/ui/keys/ID/revoke", Needs::Admin),
    ("/ui/tenants", Needs::Operator),
    ("/ui/tenants/ID/suspend", Needs::Operator),
    ("/ui/tenants/ID/resume", Needs::Operator),
    ("/ui/tenants/ID/limits", Needs::Operator),
    ("/ui/tenants/ID/key", Needs::Operator),
    ("/ui/tenants/ID/delete", Needs::Operator),
    // Their failures are shown in a frame.
    ("/ui/templates/render", Needs::Look),
    ("/ui/templates/ID/preview", Needs::Look),
];

/// Forms that need no key of a certain scope, and those of the inbox, which only `dev` has.
const OTHERS: [&str; 6] =
    ["/ui/login", "/ui/logout", "/ui/logout/all", "/ui/theme", "/ui/inbox/clear", "/ui/inbox/ID/delete"];

/// The paths to which the forms of all templates post, with `ID` for what a template inserts.
fn forms() -> BTreeSet<String> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ui/templates");
    let mut paths = BTreeSet::new();
    for file in std::fs::read_dir(dir).unwrap() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        let posts = text.split("<form").skip(1).filter(|form| form.split('>').next().unwrap().contains("\"post\""));
        let actions = posts.filter_map(|form| form.split(" action=\"").nth(1));
        let buttons = text.split(" formaction=\"").skip(1);
        for path in actions.chain(buttons).filter_map(|rest| rest.split('"').next()) {
            let literal = path.split("{{").enumerate().map(|(n, part)| match n {
                0 => part.to_owned(),
                _ => format!("ID{}", part.split_once("}}").unwrap().1),
            });
            paths.insert(literal.collect());
        }
    }
    paths
}

#[test]
fn every_form_of_the_templates_is_in_the_matrix() {
    let general = |path: &str| path.replace("lane_1", "ID").replace("none.test", "ID").replace("/none/", "/ID/");
    let listed: BTreeSet<String> = ACTIONS.iter().map(|(path, _)| general(path)).collect();
    let forms: BTreeSet<String> = forms()
        .into_iter()
        // The template has the whole path from the action.
        .map(|path| if path == "ID/cancel" { "/ui/actions/ID/cancel".to_owned() } else { path })
        // Two reports, whose buttons a loop writes.
        .filter(|path| !OTHERS.contains(&path.as_str()) && path != "/ui/inbox/ID/ID")
        .collect();
    assert_eq!(forms.difference(&listed).collect::<Vec<_>>(), Vec::<&String>::new(), "add it to ACTIONS");
    assert_eq!(listed.difference(&forms).collect::<Vec<_>>(), Vec::<&String>::new(), "no template has this form");
}

#[tokio::test]
async fn objects_of_another_tenant_are_not_found() {
    let app = hooks::builder().with_inbound().start().await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(chrono::TimeDelta::hours(1))})).await;
    let id = |created: crate::support::client::ApiResponse| created.body["id"].as_str().expect("an id").to_owned();
    let lane = app.get("/v1/lanes").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let key = id(app.post("/v1/keys", &json!({"name": "shop"})).await);
    let webhook = id(app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/hook"})).await);
    let template = id(app.post("/v1/templates", &json!({"name": "Invoice"})).await);
    let action = id(app.post("/v1/messages/actions", &json!({"action": "release", "all": true})).await);
    let route = route(&app, "*@reply.acme.test", "store").await["id"].as_str().unwrap().to_owned();
    deliver(&app, "ann@example.test", &["x@reply.acme.test"], "Subject: Hello\r\n\r\nHi\r\n").await;
    let received = app.get("/v1/received").await.body["data"][0]["id"].as_str().unwrap().to_owned();
    let other = tenant(&app, "other", json!({})).await;
    let browser = Browser::signed_in(&app.base, &other.api.key).await;
    let mut tried = 0;
    for (path, _) in ACTIONS {
        let real = match path.split('/').nth(2).unwrap() {
            "messages" => &sent.id,
            "lanes" => &lane,
            "keys" => &key,
            "webhooks" => &webhook,
            "templates" => &template,
            "actions" => &action,
            "received" => &received,
            "inbound-routes" => &route,
            _ => continue,
        };
        // A preview shows its failure in a frame.
        if !(path.contains("ID") || path.contains("lane_1")) || path.ends_with("/preview") {
            continue;
        }
        let page = browser.post(&path.replace("ID", real).replace("lane_1", real), &FIELDS).await;
        // A form that needs more fields may be refused before the object is looked for.
        assert!(matches!(page.status, 404 | 422), "{path}: {} {}", page.status, page.text);
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
    assert_eq!(app.status(&sent.id).await, "scheduled");
    assert_eq!(app.get(&format!("/v1/received/{received}")).await.status, 200);
    assert_eq!(app.get(&format!("/v1/inbound-routes/{route}")).await.body["action"], json!({"type": "store"}));
}

/// The prefix of the ids in a path.
fn with_id(path: &str) -> String {
    let prefix = match path.split('/').nth(2).unwrap() {
        "messages" => "msg",
        "actions" => "act",
        "bulks" => "blk",
        "templates" => "tpl",
        "webhooks" => "wh",
        "received" => "rcv",
        "inbound-routes" => "irt",
        "keys" => "key",
        _ => "ten",
    };
    path.replace("ID", &format!("{prefix}_00000000000070008000000000000000"))
}

/// Fields that every form finds its own among.
const FIELDS: [(&str, &str); 8] = [
    ("name", "none"),
    ("address", "nobody@none.test"),
    ("stream", "*"),
    ("action", "cancel"),
    ("url", "nowhere"),
    ("to", "nobody"),
    ("from", "1"),
    ("entries", "address,colour"),
];

#[tokio::test]
async fn every_action_needs_its_scope() {
    let app = TestApp::start().await;
    let mut wrong = Vec::new();
    for (scope, may) in [
        (Scope::Metadata, &[Needs::Look][..]),
        (Scope::Read, &[Needs::Look]),
        (Scope::Admin, &[Needs::Look, Needs::Send, Needs::Admin]),
        (Scope::Operator, &[Needs::Operator]),
    ] {
        let api = app.with_scopes(&[scope]).await;
        let browser = Browser::signed_in(&app.base, &api.key).await;
        for (path, needs) in ACTIONS {
            let page = browser.post(&with_id(path), &FIELDS).await;
            let is_refused = page.status == 403;
            if *needs != Needs::Look && is_refused == may.contains(needs) {
                wrong.push(format!("{scope:?} {path}: {}", page.status));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn other_sites_and_signed_out_browsers_cannot_act() {
    let app = TestApp::start().await;
    let browser = Browser::signed_in(&app.base, &app.key).await;
    let others = ["/ui/logout", "/ui/logout/all", "/ui/inbox/clear", "/ui/inbox/1/bounce"];
    for path in ACTIONS.iter().map(|(path, _)| with_id(path)).chain(others.map(str::to_owned)) {
        for site in ["cross-site", "same-site", "none"] {
            let page = Page::to(browser.form(&path, &FIELDS).header("sec-fetch-site", site)).await;
            assert_eq!(page.status, 403, "{site} {path}");
        }
        let signed_out = Browser::open(&app.base).post(&path, &FIELDS).await;
        let is_frame = path.ends_with("/render") || path.ends_with("/preview");
        assert_eq!(signed_out.status, if is_frame { 200 } else { 303 }, "{path}");
    }
    browser.page("/ui").await;
}

#[tokio::test]
async fn actions_of_limited_keys_stay_in_their_domains() {
    let app = TestApp::start().await;
    let shop = json!({"name": "shop", "scopes": ["send", "read"], "sender_domains": ["shop.test"]});
    let shop = app.post("/v1/keys", &shop).await.body;
    let browser = Browser::signed_in(&app.base, shop["secret"].as_str().unwrap()).await;
    let sent = app.send(json!({"scheduled_at": app.clock.text_in(chrono::TimeDelta::hours(1))})).await;
    assert_eq!(browser.post(&format!("/ui/messages/{}/cancel", sent.id), &[]).await.status, 404);
    let page = browser.post("/ui/actions/count", &[("action", "cancel"), ("q", "")]).await;
    page.shows(&["Nothing matches"]);
    for path in ["/ui/suppressions", "/ui/lanes/lane_1/pause", "/ui/templates", "/ui/tenants"] {
        assert_eq!(browser.post(path, &FIELDS).await.status, 403, "{path}");
    }
}
