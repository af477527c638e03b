//! *Audit log*: who changed what, with the object before and after the change.

use askama::Template;
use axum::Router;
use axum::extract::Query;
use axum::routing::get;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Deserialize;
use serde_json::Value;

use crate::domain::message::search;
use crate::ui::Ui;
use crate::ui::call::{Page, with_query};
use crate::ui::error::{Failure, UiError};
use crate::ui::format::{Clock, tone};
use crate::ui::pages::{PageResult, add, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell};

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new().route("/ui/audit", get(list))
}

#[derive(Debug, Default, Deserialize)]
struct AuditQuery {
    #[serde(default)]
    actor: String,
    #[serde(default)]
    action: String,
    #[serde(default)]
    object: String,
    /// A date, a time or an age, as in the search box of messages.
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    after: String,
}

impl AuditQuery {
    /// Returns the filters as they are in the path of the page.
    fn filters(&self) -> Vec<(&str, &str)> {
        let mut filters = Vec::new();
        for (name, value) in [
            ("actor", &self.actor),
            ("action", &self.action),
            ("object", &self.object),
            ("since", &self.since),
            ("until", &self.until),
        ] {
            add(&mut filters, name, value.trim());
        }
        filters
    }
}

#[derive(Debug, Deserialize)]
struct Entry {
    id: String,
    created_at: DateTime<Utc>,
    source: String,
    test: bool,
    actor: Actor,
    action: String,
    object: Option<String>,
    tenant: Option<String>,
    before: Option<Value>,
    after: Option<Value>,
    result: String,
    status: Option<i16>,
    request_id: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Actor {
    key_id: Option<String>,
    name: Option<String>,
    remote_address: Option<String>,
    user_agent: Option<String>,
}

/// A field of the object that was changed.
struct FieldChange {
    name: String,
    before: String,
    after: String,
}

impl Entry {
    fn action_text(&self) -> String {
        self.action.replace('_', " ")
    }

    /// Returns the path of the page with only the changes of the object.
    fn object_path(&self) -> String {
        with_query("/ui/audit", &[("object", self.object.as_deref().unwrap_or_default())])
    }

    fn actor_path(&self) -> String {
        let actor = self.actor.key_id.as_deref().or(self.actor.name.as_deref());
        with_query("/ui/audit", &[("actor", actor.unwrap_or_default())])
    }

    /// Returns the fields that differ before and after the change, or all of them if there is only one of the two.
    fn changes(&self) -> Vec<FieldChange> {
        let empty = serde_json::Map::new();
        let fields = |state: &'_ Option<Value>| state.as_ref().and_then(Value::as_object).cloned();
        let (before, after) = (fields(&self.before), fields(&self.after));
        let (before, after) = (before.as_ref().unwrap_or(&empty), after.as_ref().unwrap_or(&empty));
        let names = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
        names
            .filter(|name| before.get(*name) != after.get(*name))
            .map(|name| FieldChange {
                name: name.clone(),
                before: before.get(name).map_or_else(String::new, text),
                after: after.get(name).map_or_else(String::new, text),
            })
            .collect()
    }
}

/// Returns a value as text: strings without quotes, null as a dash.
fn text(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[derive(Template)]
#[template(path = "audit.html")]
struct AuditPage {
    shell: Shell,
    clock: Clock,
    query: AuditQuery,
    fault: Option<String>,
    entries: Vec<Entry>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<AuditQuery>) -> PageResult {
    let now = visitor.api().now();
    let mut fault = None;
    let mut params = vec![("limit", "50".to_owned())];
    for (name, value) in query.filters() {
        let value = match (name, search::time(value, now)) {
            ("since" | "until", Some(at)) => at.to_rfc3339_opts(SecondsFormat::Secs, true),
            ("since" | "until", None) => {
                fault =
                    Some(format!("`{value}` is not a time; write a date such as 2026-12-01, or an age such as 24h."));
                continue;
            }
            _ => value.to_owned(),
        };
        params.push((name, value));
    }
    if !query.after.is_empty() {
        params.push(("after", query.after.clone()));
    }
    let params: Vec<(&str, &str)> = params.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let page: Page<Entry> = match visitor.get(&with_query("/v1/audit", &params)).await {
        Err(UiError::Failed(failure @ Failure { status: 422, .. })) => {
            fault = Some(failure.text());
            Page { data: Vec::new(), next: None }
        }
        found => found?,
    };
    render(&AuditPage {
        shell: Shell::new(&visitor, Section::Audit, "Audit log"),
        clock: Clock(now),
        fault,
        entries: page.data,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = query.filters();
            params.push(("after", next));
            with_query("/ui/audit", &params)
        }),
        query,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[allow(clippy::needless_pass_by_value, reason = "the calls are shorter")]
    fn changes(before: Value, after: Value) -> Vec<(String, String, String)> {
        let entry = json!({"id": "aud_1", "created_at": "2026-12-01T09:00:00Z", "source": "api", "test": false, "actor": {},
            "action": "update_key", "result": "done", "before": before, "after": after});
        let entry: Entry = serde_json::from_value(entry).unwrap();
        entry.changes().into_iter().map(|one| (one.name, one.before, one.after)).collect()
    }

    #[test]
    fn only_fields_that_differ_are_shown() {
        let found = changes(json!({"name": "a", "rate": null, "old": 1}), json!({"name": "a", "rate": 50.0}));
        let expected = [("old", "1", ""), ("rate", "–", "50.0")];
        let expected = expected.map(|(name, before, after)| (name.to_owned(), before.to_owned(), after.to_owned()));
        assert_eq!(found, expected);
        assert_eq!(changes(Value::Null, json!({"name": "a"})), [("name".into(), String::new(), "a".into())]);
        assert_eq!(changes(Value::Null, json!([1])), []);
    }
}
