//! Templates in API responses.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::db::templates::versions::{VersionRow, VersionSummaryRow};
use crate::db::templates::{SourceRow, SummaryRow, TemplateRow};
use crate::domain::api::fault::Fault;
use crate::domain::id::TemplateId;
use crate::template::{Format, Rendered, Report, Syntax, Variable, Warning};

/// A template with its draft.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Template)]
pub struct TemplateView {
    /// The template's id.
    #[schema(value_type = String, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: TemplateId,
    /// The alias, by which requests may name the template; null if there is none.
    #[schema(example = "invoice")]
    pub alias: Option<String>,
    /// The name for people.
    #[schema(example = "Invoice")]
    pub name: String,
    /// When the template was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the draft, the alias or the name was last changed.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub updated_at: DateTime<Utc>,
    /// The number of changes of the draft, the alias and the name. A change that names it is refused if the template was changed
    /// in the meantime.
    #[schema(example = 4)]
    pub revision: i32,
    /// The latest published version; null if none is published.
    #[schema(example = 3)]
    pub version: Option<i32>,
    /// When it was published; null if none is published.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub published_at: Option<DateTime<Utc>>,
    /// Whether the template was changed since it was last published.
    #[schema(example = false)]
    pub has_unpublished_changes: bool,
    /// The draft.
    #[serde(flatten)]
    pub draft: ContentView,
}

/// The content of a template.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateContent)]
pub struct ContentView {
    /// The language of the placeholders: `jinja` or `vars`.
    #[schema(value_type = Syntax, example = "jinja")]
    pub syntax: String,
    /// The language of `html`: `html` or `mjml`.
    #[schema(value_type = Format, example = "html")]
    pub format: String,
    /// The subject; null if it is not set.
    #[schema(example = "Invoice {{ number }}")]
    pub subject: Option<String>,
    /// The HTML or MJML body; null if it is not set.
    #[schema(example = "<p>Hello {{ name }}</p>")]
    pub html: Option<String>,
    /// The plain text body; null: it is derived from `html`.
    #[schema(example = "Hello {{ name }}")]
    pub text: Option<String>,
    /// The sender; null if it is not set.
    #[schema(example = "Acme Billing <billing@acme.test>")]
    pub from: Option<String>,
    /// Addresses for replies; null if there are none.
    #[schema(value_type = Option<Vec<String>>, example = json!(["help@acme.test"]))]
    pub reply_to: Option<Value>,
    /// The id of the layout; null if there is none.
    #[schema(value_type = Option<String>, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7c")]
    pub layout: Option<TemplateId>,
    /// The declared variables.
    #[schema(value_type = Vec<Variable>)]
    pub variables: Value,
}

/// A template without its content.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateSummary)]
pub struct SummaryView {
    /// The template's id.
    #[schema(value_type = String, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub id: TemplateId,
    /// The alias, by which requests may name the template; null if there is none.
    #[schema(example = "invoice")]
    pub alias: Option<String>,
    /// The name for people.
    #[schema(example = "Invoice")]
    pub name: String,
    /// When the template was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the draft, the alias or the name was last changed.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub updated_at: DateTime<Utc>,
    /// The latest published version; null if none is published.
    #[schema(example = 3)]
    pub version: Option<i32>,
    /// When it was published; null if none is published.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub published_at: Option<DateTime<Utc>>,
    /// Whether the template was changed since it was last published.
    #[schema(example = false)]
    pub has_unpublished_changes: bool,
    /// The language of the placeholders: `jinja` or `vars`.
    #[schema(value_type = Syntax, example = "jinja")]
    pub syntax: String,
    /// The language of `html`: `html` or `mjml`.
    #[schema(value_type = Format, example = "html")]
    pub format: String,
    /// The subject; null if it is not set.
    #[schema(example = "Invoice {{ number }}")]
    pub subject: Option<String>,
}

/// A published version of a template. It never changes.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateVersion)]
pub struct VersionView {
    /// The template's id.
    #[schema(value_type = String, example = "tpl_019a8f3c2b7d7c4e8a1b2c3d4e5f6a7b")]
    pub template: TemplateId,
    /// The number of the version, from 1.
    #[schema(example = 3)]
    pub version: i32,
    /// When it was published.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub published_at: DateTime<Utc>,
    /// What was published.
    #[serde(flatten)]
    pub content: ContentView,
    /// What messages are rendered from: the content with its layouts, compiled MJML and inlined CSS.
    pub compiled: CompiledView,
    /// What did not prevent the publication.
    #[schema(value_type = Vec<Warning>)]
    pub warnings: Value,
}

/// What messages are rendered from.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = CompiledTemplate)]
pub struct CompiledView {
    /// The HTML body; null if there is none.
    #[schema(value_type = Option<String>, example = "<p>Hello {{ name }}</p>")]
    pub html: Value,
    /// The plain text body, given or derived; null if there is none.
    #[schema(value_type = Option<String>, example = "Hello {{ name }}")]
    pub text: Value,
    /// The variables that the template and its layouts declare.
    #[schema(value_type = Vec<Variable>)]
    pub variables: Value,
}

/// A published version of a template, without its content.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateVersionSummary)]
pub struct VersionSummaryView {
    /// The number of the version, from 1.
    #[schema(example = 3)]
    pub version: i32,
    /// When it was published.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub published_at: DateTime<Utc>,
    /// The language of the placeholders: `jinja` or `vars`.
    #[schema(value_type = Syntax, example = "jinja")]
    pub syntax: String,
    /// The language of `html`: `html` or `mjml`.
    #[schema(value_type = Format, example = "html")]
    pub format: String,
    /// The subject; null if it is not set.
    #[schema(example = "Invoice {{ number }}")]
    pub subject: Option<String>,
}

/// A rendered template.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = RenderedTemplate)]
pub struct RenderedView {
    /// The subject; null if the template has none.
    #[schema(example = "Invoice 42")]
    pub subject: Option<String>,
    /// The HTML body; null if the template has none.
    #[schema(example = "<p>Hello Ann</p>")]
    pub html: Option<String>,
    /// The plain text body; null if the template has none.
    #[schema(example = "Hello Ann")]
    pub text: Option<String>,
    /// The sender; null if the template has none.
    #[schema(example = "Acme Billing <billing@acme.test>")]
    pub from: Option<String>,
    /// Addresses for replies.
    #[schema(example = json!(["help@acme.test"]))]
    pub reply_to: Vec<String>,
    /// The size of the bodies in bytes.
    #[schema(example = 25)]
    pub size: usize,
    /// The fuel used: about one for each instruction of the template, and one for 64 bytes of text.
    #[schema(example = 12)]
    pub fuel: u64,
    /// What does not prevent a message from being sent, such as variables that the template does not declare.
    pub warnings: Vec<Warning>,
}

/// The result of validating a template.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = TemplateValidation)]
pub struct ValidationView {
    /// Whether the template can be published, and rendered with the values.
    #[schema(example = true)]
    pub valid: bool,
    /// The faults of the template, with pointers such as `/html`, and of the values, with pointers such as
    /// `/values/name`.
    pub errors: Vec<Fault>,
    /// What does not prevent it from being published.
    pub warnings: Vec<Warning>,
    /// Example values for the variables that the template uses.
    #[schema(value_type = crate::domain::api::open_object::TemplateValues, example = json!({"name": "name"}))]
    pub suggested_variables: Map<String, Value>,
    /// Declarations of the variables that the template uses, for the field `variables`. Those of the request are kept.
    pub suggested_declarations: Vec<Variable>,
    /// The rendered template; null if there are errors.
    pub rendered: Option<RenderedView>,
}

impl ContentView {
    fn from_row(row: SourceRow) -> Self {
        let has_reply_to = row.reply_to.as_array().is_some_and(|list| !list.is_empty());
        Self {
            syntax: row.syntax,
            format: row.format,
            subject: row.subject,
            html: row.html,
            text: row.text,
            from: row.sender,
            reply_to: has_reply_to.then_some(row.reply_to),
            layout: row.layout_id.map(TemplateId),
            variables: row.variables,
        }
    }
}

impl TemplateView {
    /// Creates a template from its row.
    pub fn from_row(row: TemplateRow) -> Self {
        Self {
            id: TemplateId(row.id),
            alias: row.alias,
            name: row.name,
            created_at: row.created_at,
            updated_at: row.updated_at,
            revision: row.revision,
            version: row.version,
            published_at: row.published_at,
            has_unpublished_changes: row.version_revision.is_some_and(|revision| revision != row.revision),
            draft: ContentView::from_row(row.draft),
        }
    }
}

impl SummaryView {
    /// Creates a summary from its row.
    pub fn from_row(row: SummaryRow) -> Self {
        Self {
            id: TemplateId(row.id),
            alias: row.alias,
            name: row.name,
            created_at: row.created_at,
            updated_at: row.updated_at,
            version: row.version,
            published_at: row.published_at,
            has_unpublished_changes: row.version_revision.is_some_and(|revision| revision != row.revision),
            syntax: row.syntax,
            format: row.format,
            subject: row.subject,
        }
    }
}

impl VersionView {
    /// Creates a version of a template from its row.
    pub fn from_row(template: Uuid, mut row: VersionRow) -> Self {
        let mut part = |name: &str| row.compiled.get_mut(name).map(Value::take).unwrap_or_default();
        let compiled = CompiledView { html: part("html"), text: part("text"), variables: part("variables") };
        let warnings = part("warnings");
        Self {
            template: TemplateId(template),
            version: row.version,
            published_at: row.published_at,
            content: ContentView::from_row(row.source),
            compiled,
            warnings,
        }
    }
}

impl VersionSummaryView {
    /// Creates a summary from its row.
    pub fn from_row(row: VersionSummaryRow) -> Self {
        Self {
            version: row.version,
            published_at: row.published_at,
            syntax: row.syntax,
            format: row.format,
            subject: row.subject,
        }
    }
}

impl RenderedView {
    /// Creates the view of a rendered template.
    pub fn new(parts: Rendered, warnings: Vec<Warning>) -> Self {
        let Rendered { subject, html, text, from, reply_to, size, fuel } = parts;
        Self { subject, html, text, from, reply_to, size, fuel, warnings }
    }
}

impl ValidationView {
    /// Creates the view of a report.
    pub fn new(report: Report, rendered: Option<Result<RenderedView, Vec<Fault>>>) -> Self {
        let mut errors = report.faults;
        let rendered = match rendered {
            Some(Ok(rendered)) => Some(rendered),
            Some(Err(faults)) => {
                errors.extend(faults.into_iter().map(in_values));
                None
            }
            None => None,
        };
        Self {
            valid: errors.is_empty(),
            errors,
            warnings: report.warnings,
            suggested_variables: report.suggested_variables,
            suggested_declarations: report.suggested_declarations,
            rendered,
        }
    }
}

impl ValidationView {
    /// Creates the view of a template that cannot even be scanned for its layouts.
    pub fn unscannable(errors: Vec<Fault>) -> Self {
        Self {
            valid: false,
            errors,
            warnings: Vec::new(),
            suggested_variables: Map::new(),
            suggested_declarations: Vec::new(),
            rendered: None,
        }
    }
}

/// Moves the pointer of a fault from `/variables` to `/values`, because the request's `variables` are the declarations.
fn in_values(mut fault: Fault) -> Fault {
    if let Some(rest) = fault.pointer.strip_prefix("/variables") {
        fault.pointer = format!("/values{rest}");
    }
    fault
}
