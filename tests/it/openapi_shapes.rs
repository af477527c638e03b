//! The OpenAPI document as a code generator reads it: each type has one precise name, and bytes are bytes.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

fn document() -> Value {
    serde_json::to_value(postrider::http::document()).unwrap()
}

/// Names that say nothing outside of their module.
const TOO_GENERAL: &[&str] = &[
    "Action",
    "Algorithm",
    "Args",
    "Attachment",
    "Basis",
    "Body",
    "Cause",
    "Code",
    "Config",
    "Count",
    "Data",
    "Duration",
    "Entry",
    "Envelope",
    "Error",
    "Filter",
    "Info",
    "Input",
    "Item",
    "Key",
    "Kind",
    "Limit",
    "List",
    "Mime",
    "Name",
    "Object",
    "Options",
    "Page",
    "Plan",
    "Purpose",
    "Reason",
    "Record",
    "Relay",
    "Request",
    "Response",
    "Result",
    "Scope",
    "Settings",
    "Source",
    "State",
    "Status",
    "Type",
    "Value",
    "View",
    "Waiting",
    "Warning",
];

/// Visits every object in the document, with its path.
fn walk(value: &Value, at: &str, visit: &mut impl FnMut(&Map<String, Value>, &str)) {
    match value {
        Value::Object(object) => {
            visit(object, at);
            object.iter().for_each(|(name, value)| walk(value, &format!("{at}/{name}"), visit));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| walk(value, &format!("{at}/{index}"), visit));
        }
        _ => {}
    }
}

#[test]
fn bytes_are_not_arrays_of_integers() {
    walk(&document(), "", &mut |object, at| {
        let is_bytes =
            object.get("items").is_some_and(|items| items["type"] == "integer" && items["format"] == "int32");
        assert!(!is_bytes, "{at}");
    });
    let mut bytes = 0;
    walk(&document(), "", &mut |object, at| {
        for kind in ["message/rfc822", "message/global", "application/octet-stream"] {
            let Some(content) = object.get(kind) else { continue };
            assert_eq!(
                (&content["schema"]["type"], &content["schema"]["format"]),
                (&"string".into(), &"binary".into()),
                "{at}"
            );
            bytes += 1;
        }
    });
    assert_eq!(bytes, 11);
}

#[test]
fn every_reference_leads_to_a_schema() {
    let document = document();
    walk(&document, "", &mut |object, at| {
        if let Some(Value::String(target)) = object.get("$ref") {
            assert!(document.pointer(target.strip_prefix('#').unwrap()).is_some(), "{at}: {target}");
        }
    });
}

#[test]
fn pages_refer_to_their_entries() {
    let document = document();
    let mut pages = 0;
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let Some(entry) = name.strip_prefix("Page_") else { continue };
        let expected = format!("#/components/schemas/{entry}");
        assert_eq!(schema["properties"]["data"]["items"]["$ref"], expected, "{name}");
        pages += 1;
    }
    assert!(pages >= 9, "{pages}");
}

#[test]
fn no_schema_has_a_general_name() {
    let document = document();
    let names = document["components"]["schemas"].as_object().unwrap().keys();
    let general: Vec<&String> = names.filter(|name| TOO_GENERAL.contains(&name.as_str())).collect();
    assert!(general.is_empty(), "{general:?}");
}

#[test]
fn every_request_body_has_a_schema_and_an_example() {
    let document = document();
    let mut bodies = 0;
    for section in ["paths", "webhooks"] {
        for (path, methods) in document[section].as_object().unwrap() {
            for (method, operation) in methods.as_object().unwrap() {
                for (kind, content) in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                    assert!(content["schema"].is_object(), "{method} {path} {kind} has no schema");
                    assert!(!content["example"].is_null(), "{method} {path} {kind} has no example");
                    bodies += 1;
                }
            }
        }
    }
    assert!(bodies >= 35, "{bodies}");
}

/// Returns whether the schema at this path has a name: it is in the list of schemas, or a part of one in `allOf`.
fn is_named(at: &str) -> bool {
    let steps: Vec<&str> = at.split('/').skip(1).collect();
    matches!(steps[..], ["components", "schemas", _] | ["components", "schemas", _, "allOf", _])
}

#[test]
fn objects_and_enums_have_names() {
    let mut document = document();
    document.as_object_mut().unwrap().remove("webhooks");
    let mut inline = Vec::new();
    walk(&document, "", &mut |schema, at| {
        let types = schema.get("type");
        let is_object = types.is_some_and(|types| {
            types == "object" || types.as_array().is_some_and(|types| types.contains(&"object".into()))
        });
        let is_enum = schema.get("enum").is_some_and(Value::is_array);
        if (is_object || is_enum) && !is_named(at) && !at.contains("/example") {
            inline.push(at.to_owned());
        }
    });
    assert!(inline.is_empty(), "{inline:#?}");
}

#[test]
fn requests_to_endpoints_have_names_and_a_tag_of_their_own() {
    let document = document();
    let tags = |section: &str| -> BTreeSet<String> {
        let operations =
            document[section].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap().values());
        operations.map(|operation| operation["tags"][0].as_str().unwrap().to_owned()).collect()
    };
    assert!(tags("paths").is_disjoint(&tags("webhooks")), "generators make one module for each tag");
    let mut titles = BTreeSet::new();
    for (kind, item) in document["webhooks"].as_object().unwrap() {
        let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
        if kind != "webhook.batch" {
            for title in [&schema["title"], &schema["allOf"][1]["properties"]["data"]["title"]] {
                let title = title.as_str().unwrap_or_else(|| panic!("{kind} has no title"));
                assert!(document["components"]["schemas"][title].is_null() && titles.insert(title), "{title}");
            }
        }
    }
    assert!(titles.contains("MessageBouncedEvent") && titles.contains("KeyQuotaReachedData"), "{titles:?}");
}

#[test]
fn enum_values_have_names_without_dots() {
    let document = document();
    for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
        let words: Vec<&str> = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let has_dots = words.iter().any(|word| !word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
        assert_eq!(schema["x-enum-varnames"].is_array(), has_dots, "{name}");
    }
    assert_eq!(document["components"]["schemas"]["EventType"]["x-enum-varnames"][0], "MESSAGE_ACCEPTED");
}

#[test]
fn operations_have_listed_tags_and_own_ids() {
    let document = document();
    let tags: Vec<&Value> = document["tags"].as_array().unwrap().iter().map(|tag| &tag["name"]).collect();
    let mut ids = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            assert!(operation["tags"].as_array().unwrap().iter().all(|tag| tags.contains(&tag)), "{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{method} {path}");
        }
    }
}
