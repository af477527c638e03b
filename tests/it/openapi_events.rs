//! Compares the events, bounces and error codes in the OpenAPI document and in the documentation with those of the
//! service.

use std::collections::BTreeSet;

use postrider::domain::api::fault::Code;
use postrider::domain::api::problem::ProblemCode;
use postrider::domain::bounce::{BounceType, Category, Judgement, Source};
use postrider::domain::event::EventType;
use serde_json::{Value, json};

use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::json_schema::{check, check_event, faults};
use crate::support::smtp::Action;

const EVENTS: &str = include_str!("../../docs/events.md");
const ERRORS: &str = include_str!("../../docs/errors.md");
const README: &str = include_str!("../../README.md");

fn document() -> Value {
    serde_json::to_value(postrider::http::document()).unwrap()
}

#[test]
fn published_words_are_enums_in_the_document() {
    let document = document();
    let of = |name: &str| document["components"]["schemas"][name]["enum"].clone();
    assert_eq!(of("EventType"), json!(EventType::ALL.map(EventType::as_str)));
    assert_eq!(of("BounceType"), json!(BounceType::ALL.map(BounceType::as_str)));
    assert_eq!(of("BounceCategory"), json!(Category::ALL.map(Category::as_str)));
    assert_eq!(of("BounceSource"), json!(Source::ALL.map(Source::as_str)));
    assert_eq!(of("ProblemCode"), json!(ProblemCode::ALL.map(ProblemCode::as_str).as_slice()));
    assert_eq!(of("FaultCode"), json!(Code::ALL.map(Code::as_str).as_slice()));
    let uses = |schema: &str, field: &str, of: &str| {
        let found = document["components"]["schemas"][schema]["properties"][field].to_string();
        assert!(found.contains(&format!("\"#/components/schemas/{of}\"")), "{schema}.{field}: {found}");
    };
    uses("Event", "type", "EventType");
    uses("Bounce", "type", "BounceType");
    uses("Bounce", "category", "BounceCategory");
    uses("Bounce", "source", "BounceSource");
    uses("Problem", "code", "ProblemCode");
    uses("Fault", "code", "FaultCode");
    uses("Webhook", "events", "EventType");
}

#[test]
fn every_type_of_event_is_a_documented_webhook() {
    let document = document();
    let webhooks = document["webhooks"].as_object().unwrap();
    let mut expected: BTreeSet<&str> = EventType::ALL.map(EventType::as_str).into();
    expected.insert("webhook.batch");
    assert_eq!(webhooks.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    for (kind, item) in webhooks {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        check(&content["schema"], &content["example"]);
        if kind == "webhook.batch" {
            content["example"]["events"].as_array().unwrap().iter().for_each(check_event);
        } else {
            check_event(&content["example"]);
            let mut other = content["example"].clone();
            other["type"] = json!("webhook.batch");
            assert!(!faults(&content["schema"], &other).is_empty(), "{kind}");
        }
    }
}

#[tokio::test]
async fn real_events_fit_their_schemas() {
    let app = TestApp::builder().config(|config| config.webhooks.allow_private = true).start().await;
    app.smtp.rcpt("bo@example.test").replies(["550 5.1.1 no such user"]);
    app.smtp.rcpt("cy@example.test").replies(["451 4.7.1 greylisted"]);
    app.smtp.rcpt("di@example.test").replies(["451 4.7.1 greylisted"]);
    let to = json!(["Ann <ann@example.test>", "bo@example.test", "cy@example.test"]);
    app.send(json!({"to": to, "tags": [{"name": "kind", "value": "a"}], "metadata": {"order": "42"}})).await;
    let soon = json!(app.clock.text_in(hours(1)));
    let later = app.send(json!({"scheduled_at": soon})).await.id;
    assert_eq!(app.post(&format!("/v1/messages/{later}/cancel"), &json!({})).await.status, 200);
    app.send(json!({"to": "di@example.test", "expires_at": soon})).await;
    app.run_until_idle().await;
    app.smtp.dot().does([Action::Drop]);
    app.send(json!({"to": "ed@example.test", "on_uncertain": "hold"})).await;
    // The first bounce suppressed the address.
    app.send(json!({"to": "bo@example.test"})).await;
    app.run_until_idle().await;
    app.clock.advance(hours(2));
    app.run_until_idle().await;
    let hook = app.post("/v1/webhooks", &json!({"url": "http://127.0.0.1:9/"})).await.body["id"].clone();
    assert_eq!(app.post(&format!("/v1/webhooks/{}/test", hook.as_str().unwrap()), &json!({})).await.status, 202);

    let page = app.get("/v1/events?limit=1000").await.body;
    let events = page["data"].as_array().unwrap();
    events.iter().for_each(check_event);
    let seen: BTreeSet<&str> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
    for kind in [
        "message.accepted",
        "message.scheduled",
        "message.canceled",
        "message.deferred",
        "message.relayed",
        "message.bounced",
        "message.expired",
        "message.suppressed",
        "message.uncertain",
        "webhook.test",
    ] {
        assert!(seen.contains(kind), "{kind} is not among {seen:?}");
    }
}

/// Checks that a page has a table with these rows and no others.
fn has_table(page: &str, head: &str, rows: &[String]) {
    let (_, table) = page.split_once(head).unwrap_or_else(|| panic!("no table `{head}`"));
    let found: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    assert_eq!(found.join("\n"), rows.join("\n"), "the rows below `{head}` have to be:\n{}\n", rows.join("\n"));
}

#[test]
fn documentation_lists_every_type_of_event() {
    let fields = |kind: EventType| {
        kind.required_fields().iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ")
    };
    let rows = EventType::ALL.map(|kind| format!("| `{kind}` | {} | {} |", kind.meaning(), fields(kind)));
    has_table(EVENTS, "| type | when | fields of `data` that are always set |", &rows);
    let data = document()["components"]["schemas"]["EventData"]["properties"].clone();
    for field in data.as_object().unwrap().keys() {
        assert!(EVENTS.contains(&format!("| `{field}` | ")), "{field} is not explained");
    }
    assert!(README.contains("](docs/events.md)"));
}

#[test]
fn documentation_lists_bounce_types_and_categories() {
    let rows = BounceType::ALL.map(|kind| format!("| `{}` | {} |", kind.as_str(), kind.meaning()));
    has_table(EVENTS, "| `bounce.type` | meaning |", &rows);
    let rows = Category::ALL.map(|category| {
        let judged = Judgement { kind: BounceType::Hard, category, rule: "none" };
        let suppresses = if judged.suppresses() { "if `hard`" } else { "no" };
        format!("| `{}` | {} | {suppresses} |", category.as_str(), category.meaning())
    });
    has_table(EVENTS, "| `bounce.category` | meaning | suppresses the address |", &rows);
    let soft = [BounceType::Soft, BounceType::Block, BounceType::Undetermined].into_iter();
    let mut soft = soft.flat_map(|kind| Category::ALL.map(|category| Judgement { kind, category, rule: "none" }));
    assert!(!soft.any(|judged| judged.suppresses()), "only hard bounces suppress");
}

#[test]
fn documentation_lists_every_error_code() {
    let rows = ProblemCode::ALL
        .map(|code| format!("| `{}` | {} | {} | {} |", code.as_str(), code.status(), code.meaning(), code.fix()));
    has_table(ERRORS, "| `code` | status | meaning | fix |", &rows);
    let rows = Code::ALL.map(|code| format!("| `{}` | {} |", code.as_str(), code.meaning()));
    has_table(ERRORS, "| `errors[].code` | meaning |", &rows);
    assert!(README.contains("](docs/errors.md)"));
}
