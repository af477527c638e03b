//! *Templates*: an editor of the draft with a preview, the versions, publishing, and a test message.

mod editor;
mod preview;

use askama::Template;
use axum::extract::{Path, Query};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{ListQuery, PageResult, add, given, refused, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::Clock;
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};
use editor::{DraftForm, values};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/templates", get(list).post(editor::create))
        .route("/ui/templates/render", post(editor::render_typed))
        .route("/ui/templates/{id}", get(show).post(editor::save))
        .route("/ui/templates/{id}/preview", post(preview::show))
        .route("/ui/templates/{id}/publish", post(publish))
        .route("/ui/templates/{id}/test", post(send_test))
        .route("/ui/templates/{id}/delete", post(editor::delete))
}

#[derive(Debug, Deserialize)]
struct Summary {
    id: String,
    alias: Option<String>,
    name: String,
    updated_at: DateTime<Utc>,
    version: Option<i32>,
    has_unpublished_changes: bool,
    format: String,
    subject: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Draft {
    id: String,
    alias: Option<String>,
    name: String,
    updated_at: DateTime<Utc>,
    /// The number of changes, which the form keeps to notice another one.
    revision: i32,
    version: Option<i32>,
    published_at: Option<DateTime<Utc>>,
    has_unpublished_changes: bool,
    syntax: String,
    format: String,
    subject: Option<String>,
    html: Option<String>,
    text: Option<String>,
    from: Option<String>,
    layout: Option<String>,
    #[serde(default)]
    variables: Value,
}

impl Draft {
    /// Returns whether publishing would create a version.
    fn can_publish(&self) -> bool {
        self.version.is_none() || self.has_unpublished_changes
    }

    /// Returns the draft as the form of the editor.
    fn form(&self) -> DraftForm {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let is_declared = self.variables.as_array().is_some_and(|list| !list.is_empty());
        let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap_or_default();
        DraftForm {
            name: self.name.clone(),
            alias: text(&self.alias),
            syntax: self.syntax.clone(),
            format: self.format.clone(),
            layout: text(&self.layout),
            from: text(&self.from),
            subject: text(&self.subject),
            html: text(&self.html),
            text: text(&self.text),
            revision: Some(self.revision.to_string()),
            declarations: if is_declared { pretty(&self.variables) } else { String::new() },
            variables: pretty(&self.example_variables()),
        }
    }

    /// Returns the declared variables with their defaults or values of their types, as a start for the preview.
    fn example_variables(&self) -> Value {
        let value = |variable: &Value| match (variable.get("default"), variable["type"].as_str()) {
            (Some(default), _) if !default.is_null() => default.clone(),
            (_, Some("number")) => json!(1),
            (_, Some("boolean")) => json!(true),
            (_, Some("array")) => json!([]),
            (_, Some("object")) => json!({}),
            _ => variable["key"].clone(),
        };
        let declared = self.variables.as_array().into_iter().flatten();
        let named = declared.filter_map(|one| Some((one["key"].as_str()?.to_owned(), value(one))));
        Value::Object(named.collect::<Map<String, Value>>())
    }
}

#[derive(Debug, Deserialize)]
#[allow(clippy::struct_field_names, reason = "the name of the field in the API")]
struct Version {
    version: i32,
    published_at: DateTime<Utc>,
    subject: Option<String>,
}

#[derive(Template)]
#[template(path = "templates.html")]
struct TemplatesPage {
    shell: Shell,
    clock: Clock,
    fault: Option<String>,
    /// The name that was typed into the form.
    typed: String,
    templates: Vec<Summary>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show_list(&visitor, &query.after, None).await
}

/// Returns the list, with a refused name and the reason.
async fn show_list(visitor: &Visitor, after: &str, refused: Option<(String, String)>) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", after);
    let page: Page<Summary> = visitor.get(&with_query("/v1/templates", &params)).await?;
    render(&TemplatesPage {
        shell: Shell::new(visitor, Section::Templates, "Templates"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        templates: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/templates", &[("after", &next)])),
    })
}

/// A template that may be the layout.
struct Layout {
    id: String,
    name: String,
}

/// Maximum number of templates among which the layouts are looked for.
const MAX_TEMPLATES: usize = 1_000;

#[derive(Template)]
#[template(path = "template.html")]
struct TemplatePage {
    shell: Shell,
    clock: Clock,
    draft: Draft,
    /// The draft as it is, or as it was typed.
    form: DraftForm,
    fault: Option<String>,
    /// Whether the form has edits that were not saved.
    has_unsaved: bool,
    /// A refused test message, as it was typed.
    test: Option<TestForm>,
    versions: Vec<Version>,
    /// Other published templates, which may be the layout, and the current one.
    layouts: Vec<Layout>,
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    show_draft(&visitor, &id, Refused::default()).await
}

/// What was refused, and why: the draft as it was typed, or a test message.
#[derive(Default)]
struct Refused {
    fault: Option<String>,
    draft: Option<DraftForm>,
    /// Whether the draft was saved, and refused only afterwards.
    is_saved: bool,
    test: Option<TestForm>,
}

/// Returns the page of a template, with a refused form and the reason.
async fn show_draft(visitor: &Visitor, id: &str, refused: Refused) -> PageResult {
    let path = format!("/v1/templates/{}", segment(id));
    let draft: Draft = visitor.get(&path).await?;
    let versions: Page<Version> = visitor.get(&format!("{path}/versions?limit=20")).await?;
    let others = visitor.get_list::<Summary>("/v1/templates", &[], MAX_TEMPLATES).await?;
    let Refused { fault, draft: typed, is_saved, test } = refused;
    let has_unsaved = typed.is_some() && !is_saved;
    let form = typed.unwrap_or_else(|| draft.form());
    let may_be_layout = |other: &Summary| other.id != draft.id && (other.version.is_some() || other.id == form.layout);
    let layouts = others.data.into_iter().filter(may_be_layout);
    let mut layouts: Vec<Layout> = layouts.map(|other| Layout { id: other.id, name: other.name }).collect();
    if !form.layout.is_empty() && layouts.iter().all(|layout| layout.id != form.layout) {
        // Without an option of its own, saving the draft would remove the layout.
        let found = visitor.get::<Draft>(&format!("/v1/templates/{}", segment(&form.layout))).await;
        let name = found.map_or_else(|_| form.layout.clone(), |layout| layout.name);
        layouts.push(Layout { id: form.layout.clone(), name });
    }
    let shell = Shell::new(visitor, Section::Templates, draft.name.as_str());
    let shell = shell.at(format!("/ui/templates/{}", segment(id)));
    let clock = Clock(visitor.api().now());
    render(&TemplatePage { shell, clock, draft, form, fault, has_unsaved, test, versions: versions.data, layouts })
}

impl TemplatePage {
    /// Returns the address, the sender and the variables of the test message, as they were typed or as a start.
    fn test_form(&self) -> TestForm {
        self.test.clone().unwrap_or_else(|| TestForm {
            to: String::new(),
            from: self.draft.from.clone().unwrap_or_default(),
            variables: self.form.variables.clone(),
        })
    }
}

/// Publishes the draft, after saving what was typed into the editor. A request without the fields of the editor publishes the
/// draft as it is.
async fn publish(visitor: Visitor, Path(id): Path<String>, Form(form): Form<DraftForm>) -> Result<Response, UiError> {
    let path = segment(&id);
    let has_draft = form != DraftForm::default();
    let saved = if has_draft { editor::store(&visitor, &id, &form).await } else { Ok(()) };
    let is_saved = has_draft && saved.is_ok();
    let published = match saved {
        Ok(()) => visitor.post(&format!("/v1/templates/{path}/publish"), None).await,
        Err(error) => Err(error),
    };
    match published {
        Ok(_) => Ok(redirect_done(&format!("/ui/templates/{path}"), "published").into_response()),
        Err(error) => {
            let text = error.refusal()?.text();
            let fault =
                if is_saved { format!("The draft was saved, but it cannot be published. {text}") } else { text };
            let draft = Some(form).filter(|_| has_draft);
            refused(show_draft(&visitor, &id, Refused { fault: Some(fault), draft, is_saved, test: None }).await)
        }
    }
}

/// The form of a test message.
#[derive(Debug, Clone, Deserialize)]
struct TestForm {
    to: String,
    #[serde(default)]
    from: String,
    #[serde(default)]
    variables: String,
}

/// An accepted message.
#[derive(Debug, Deserialize)]
struct Accepted {
    id: String,
}

/// Sends a message with the latest published version.
async fn send_test(visitor: Visitor, Path(id): Path<String>, Form(form): Form<TestForm>) -> Result<Response, UiError> {
    let sent = match values(&form.variables) {
        Ok(variables) => {
            let mut body = json!({"to": form.to.trim(), "template": {"id": id}});
            if let Some(from) = given(&form.from) {
                body["from"] = json!(from);
            }
            if let Some(variables) = variables {
                body["template"]["variables"] = variables;
            }
            visitor.post("/v1/messages", Some(&body)).await
        }
        Err(fault) => Err(UiError::new(422, fault)),
    };
    match sent {
        Ok(sent) => {
            let sent: Accepted = serde_json::from_slice(&sent).map_err(|error| UiError::unreadable(&error))?;
            Ok(redirect_done(&format!("/ui/messages/{}", segment(&sent.id)), "test-sent").into_response())
        }
        Err(error) => {
            let fault = Some(format!("The test message was refused. {}", error.refusal()?.text()));
            refused(show_draft(&visitor, &id, Refused { fault, test: Some(form), ..Refused::default() }).await)
        }
    }
}
