//! Validates values against the schemas of the OpenAPI document, with the subset of JSON Schema 2020-12 that the
//! document uses. An unsupported keyword fails the test.

use std::sync::LazyLock;

use chrono::DateTime;
use serde_json::{Map, Value, json};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::to_value(postrider::http::document()).unwrap());

/// Keywords that do not restrict values.
const ANNOTATIONS: &[&str] = &["description", "example", "examples", "title", "default", "deprecated"];

/// Checks an event against its schema under `webhooks`, and checks that all its fields are documented.
pub fn check_event(event: &Value) {
    let kind = event["type"].as_str().unwrap();
    let body = &DOCUMENT["webhooks"][kind]["post"]["requestBody"]["content"]["application/json"];
    check(&body["schema"], event);
    let known = |schema: &str| DOCUMENT["components"]["schemas"][schema]["properties"].as_object().unwrap();
    for (schema, object) in [("Event", event), ("EventData", &event["data"])] {
        for name in object.as_object().unwrap().keys() {
            assert!(known(schema).contains_key(name), "{kind}: {name} is not documented");
        }
    }
}

/// Checks a value against a schema of the document.
pub fn check(schema: &Value, value: &Value) {
    let faults = faults(schema, value);
    assert!(faults.is_empty(), "{faults:#?}\n{value:#}");
}

/// Returns the faults, each with its JSON pointer.
pub fn faults(schema: &Value, value: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    check_value(schema, value, "", &mut faults);
    faults
}

fn check_value(schema: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    macro_rules! fault {
        ($($why:tt)*) => { faults.push(format!("{at}: {}", format!($($why)*))) };
    }
    for (keyword, wanted) in schema.as_object().unwrap_or_else(|| panic!("{at}: {schema} is not a schema")) {
        let number =
            |pick: fn(f64, f64) -> bool| value.as_f64().is_none_or(|value| pick(value, wanted.as_f64().unwrap()));
        let length = value.as_str().map(|text| text.chars().count()).or(value.as_array().map(Vec::len));
        let limit = || usize::try_from(wanted.as_u64().unwrap()).unwrap();
        match keyword.as_str() {
            "$ref" => check_value(resolve(wanted), value, at, faults),
            "allOf" => wanted.as_array().unwrap().iter().for_each(|one| check_value(one, value, at, faults)),
            "oneOf" => {
                let count = wanted.as_array().unwrap().iter().filter(|one| self::faults(one, value).is_empty()).count();
                if count != 1 {
                    fault!("{value} fits {count} of {wanted}");
                }
            }
            "type" if !has_type(wanted, value) => fault!("{value} is not {wanted}"),
            "enum" if !wanted.as_array().unwrap().contains(value) => fault!("{value} is none of {wanted}"),
            "format" if wanted == "date-time" => {
                if value.as_str().is_some_and(|text| DateTime::parse_from_rfc3339(text).is_err()) {
                    fault!("{value} is not a time");
                }
            }
            "format" => {
                assert!(["int32", "int64", "double"].contains(&wanted.as_str().unwrap()), "{at}: format {wanted}");
            }
            "minimum" if !number(|value, least| value >= least) => fault!("{value} is below {wanted}"),
            "maximum" if !number(|value, most| value <= most) => fault!("{value} is above {wanted}"),
            "minLength" | "minItems" if length.is_some_and(|length| length < limit()) => {
                fault!("too short for {wanted}");
            }
            "maxLength" | "maxItems" if length.is_some_and(|length| length > limit()) => {
                fault!("too long for {wanted}");
            }
            "required" => {
                for name in wanted.as_array().unwrap().iter().filter_map(Value::as_str) {
                    if value.as_object().is_some_and(|object| !object.contains_key(name)) {
                        fault!("{name} is missing");
                    }
                }
            }
            "properties" => {
                for (name, property) in wanted.as_object().unwrap() {
                    if let Some(value) = value.get(name) {
                        check_value(property, value, &format!("{at}/{name}"), faults);
                    }
                }
            }
            "additionalProperties" => check_additional(schema, wanted, value, at, faults),
            "propertyNames" => {
                for name in value.as_object().into_iter().flat_map(Map::keys) {
                    check_value(wanted, &json!(name), &format!("{at}/{name}"), faults);
                }
            }
            "items" => {
                for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                    check_value(wanted, item, &format!("{at}/{index}"), faults);
                }
            }
            "type" | "enum" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems" => {}
            other => {
                let is_known = ANNOTATIONS.contains(&other) || other.starts_with("x-");
                assert!(is_known, "{at}: the keyword {other} is not supported");
            }
        }
    }
}

fn resolve(reference: &Value) -> &'static Value {
    let pointer = reference.as_str().unwrap().strip_prefix('#').unwrap();
    DOCUMENT.pointer(pointer).unwrap_or_else(|| panic!("{reference} does not exist"))
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    let is = |one: &Value| match one.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("type {other}"),
    };
    wanted.as_array().map_or_else(|| is(wanted), |types| types.iter().any(is))
}

/// Checks the fields that are not in `properties`.
fn check_additional(schema: &Value, wanted: &Value, value: &Value, at: &str, faults: &mut Vec<String>) {
    for (name, value) in value.as_object().into_iter().flatten() {
        if schema["properties"].get(name).is_some() {
            continue;
        }
        match wanted {
            Value::Bool(true) => {}
            Value::Bool(false) => faults.push(format!("{at}: {name} is not allowed")),
            schema => check_value(schema, value, &format!("{at}/{name}"), faults),
        }
    }
}

#[test]
fn invalid_values_are_reported() {
    let schema = json!({
        "type": "object", "required": ["a"], "additionalProperties": false,
        "properties": {"a": {"type": ["integer", "null"], "maximum": 5}, "b": {"enum": ["x"]},
                       "c": {"oneOf": [{"type": "null"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]},
                       "d": {"type": "string", "format": "date-time"}},
    });
    assert_eq!(faults(&schema, &json!({"a": null, "b": "x", "c": ["y"], "d": "2026-11-24T09:00:00Z"})), [""; 0]);
    for (value, at) in [
        (json!([]), ": "),
        (json!({}), ": a is missing"),
        (json!({"a": "1"}), "/a: "),
        (json!({"a": 6}), "/a: "),
        (json!({"a": 1, "b": "z"}), "/b: "),
        (json!({"a": 1, "c": []}), "/c: "),
        (json!({"a": 1, "c": [2]}), "/c: "),
        (json!({"a": 1, "d": "today"}), "/d: "),
        (json!({"a": 1, "e": 1}), ": e is not allowed"),
    ] {
        let faults = faults(&schema, &value);
        assert!(faults.len() == 1 && faults[0].starts_with(at), "{value}: {faults:?}");
    }
}
