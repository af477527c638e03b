//! The editor of a template's draft: what is typed is saved, or rendered without saving it.

use axum::Form;
use axum::extract::Path;
use axum::extract::rejection::FormRejection;
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::preview::{self, Rendered};
use super::{Draft, Refused, show_draft, show_list};
use crate::ui::call::segment;
use crate::ui::error::UiError;
use crate::ui::pages::{given, refused};
use crate::ui::session::Visitor;
use crate::ui::shell::redirect_done;

/// The form of the editor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(super) struct DraftForm {
    /// The revision of the draft when the form was opened.
    pub revision: Option<String>,
    #[serde(default)]
    pub name: String,
    #[serde(default)]
    pub alias: String,
    #[serde(default)]
    pub syntax: String,
    #[serde(default)]
    pub format: String,
    #[serde(default)]
    pub layout: String,
    #[serde(default)]
    pub from: String,
    #[serde(default)]
    pub subject: String,
    #[serde(default)]
    pub html: String,
    #[serde(default)]
    pub text: String,
    /// The declared variables, as JSON.
    #[serde(default)]
    pub declarations: String,
    /// The values of the variables for the preview, as JSON.
    #[serde(default)]
    pub variables: String,
}

impl DraftForm {
    /// Returns the content of the draft; fails with the reason if the declarations are not JSON.
    fn content(&self) -> Result<Map<String, Value>, String> {
        let mut content = Map::new();
        for (name, text) in [("syntax", &self.syntax), ("format", &self.format)] {
            if let Some(text) = given(text) {
                content.insert(name.to_owned(), json!(text));
            }
        }
        for (name, text) in [("layout", &self.layout), ("from", &self.from), ("subject", &self.subject)] {
            content.insert(name.to_owned(), given(text).map_or(Value::Null, |text| json!(text)));
        }
        for (name, text) in [("html", &self.html), ("text", &self.text)] {
            // Browsers send CRLF.
            let text = text.replace("\r\n", "\n");
            content.insert(name.to_owned(), if text.trim().is_empty() { Value::Null } else { json!(text) });
        }
        let declared = match given(&self.declarations) {
            None => Value::Null,
            Some(text) => serde_json::from_str::<Vec<Value>>(text)
                .map(Value::Array)
                .map_err(|error| format!("The declared variables are not a JSON array: {error}."))?,
        };
        content.insert("variables".to_owned(), declared);
        Ok(content)
    }
}

/// Parses the values of variables for a preview or a test message: a JSON object.
pub(super) fn values(text: &str) -> Result<Option<Value>, String> {
    let Some(text) = given(text) else { return Ok(None) };
    serde_json::from_str::<Map<String, Value>>(text)
        .map(|values| Some(Value::Object(values)))
        .map_err(|error| format!("The variables are not a JSON object: {error}."))
}

/// A created template.
#[derive(Debug, Deserialize)]
struct Created {
    id: String,
}

/// Creates a template with a name and nothing else.
pub(super) async fn create(visitor: Visitor, Form(form): Form<DraftForm>) -> Result<Response, UiError> {
    match visitor.post("/v1/templates", Some(&json!({"name": form.name.trim()}))).await {
        Ok(created) => {
            let created: Created = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            Ok(redirect_done(&format!("/ui/templates/{}", segment(&created.id)), "created").into_response())
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_list(&visitor, "", Some((form.name, fault))).await)
        }
    }
}

/// Saves the draft.
pub(super) async fn save(
    visitor: Visitor,
    Path(id): Path<String>,
    Form(form): Form<DraftForm>,
) -> Result<Response, UiError> {
    match store(&visitor, &id, &form).await {
        Ok(()) => Ok(redirect_done(&format!("/ui/templates/{}", segment(&id)), "saved").into_response()),
        Err(error) => {
            let fault = Some(error.refusal()?.text());
            refused(show_draft(&visitor, &id, Refused { fault, draft: Some(form), ..Refused::default() }).await)
        }
    }
}

/// Stores what was typed as the draft. Refuses it if somebody else has changed the draft since the form was opened.
pub(super) async fn store(visitor: &Visitor, id: &str, form: &DraftForm) -> Result<(), UiError> {
    let path = format!("/v1/templates/{}", segment(id));
    let mut body = form.content().map_err(|fault| UiError::new(422, fault))?;
    body.insert("name".to_owned(), json!(form.name.trim()));
    body.insert("alias".to_owned(), given(&form.alias).map_or(Value::Null, |alias| json!(alias)));
    if let Some(revision) = &form.revision {
        let draft: Draft = visitor.get(&path).await?;
        // Names the revision in the change, too: somebody else may save at the same moment.
        body.insert("revision".to_owned(), json!(draft.revision));
        if draft.revision.to_string() != *revision {
            let fault = "Somebody else has changed the draft since you opened it. Your edits are below and were not saved; \
                saving them now replaces the other changes.";
            return Err(UiError::new(409, fault));
        }
    }
    visitor.change(Method::PATCH, &path, Some(&Value::Object(body))).await?;
    Ok(())
}

/// Deletes the template with its versions.
pub(super) async fn delete(visitor: Visitor, Path(id): Path<String>) -> Result<Redirect, UiError> {
    visitor.change(Method::DELETE, &format!("/v1/templates/{}", segment(&id)), None).await?;
    Ok(redirect_done("/ui/templates", "deleted"))
}

/// The result of a validation.
#[derive(Debug, Deserialize)]
struct Validation {
    errors: Vec<Fault>,
    rendered: Option<Rendered>,
}

#[derive(Debug, Deserialize)]
struct Fault {
    pointer: String,
    message: String,
}

/// Renders what is typed into the frame of the page, without saving it.
pub(super) async fn render_typed(
    visitor: Result<Visitor, UiError>,
    form: Result<Form<DraftForm>, FormRejection>,
) -> Result<Response, UiError> {
    let form = match form {
        Ok(Form(form)) => form,
        Err(refusal) => return preview::unrendered(refusal.body_text()),
    };
    match validated(visitor, &form).await {
        Ok(Validation { rendered: Some(rendered), .. }) => preview::framed(rendered),
        Ok(Validation { errors, rendered: None }) => {
            let text = |fault: &Fault| format!("{}: {}", fault.pointer.trim_start_matches('/'), fault.message);
            preview::unrendered(errors.iter().map(text).collect::<Vec<_>>().join("\n"))
        }
        Err(error) => preview::failed(error),
    }
}

async fn validated(visitor: Result<Visitor, UiError>, form: &DraftForm) -> Result<Validation, UiError> {
    let refuse = |fault| UiError::new(422, fault);
    let mut body = form.content().map_err(refuse)?;
    body.retain(|_, value| !value.is_null());
    if let Some(values) = values(&form.variables).map_err(refuse)? {
        body.insert("values".to_owned(), values);
    }
    let found = visitor?.post("/v1/templates/validate", Some(&Value::Object(body))).await?;
    serde_json::from_slice(&found).map_err(|error| UiError::unreadable(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_fields_clear_the_draft() {
        let form = DraftForm { subject: " Hi ".into(), html: "<p>\r\n</p>".into(), ..DraftForm::default() };
        let content = Value::Object(form.content().unwrap());
        let expected = json!({"layout": null, "from": null, "subject": "Hi", "html": "<p>\n</p>", "text": null,
            "variables": null});
        assert_eq!(content, expected);
    }

    #[test]
    fn declarations_and_values_must_be_json() {
        let form = DraftForm { declarations: "{}".into(), ..DraftForm::default() };
        assert!(form.content().unwrap_err().starts_with("The declared variables are not a JSON array"));
        assert_eq!(values(" "), Ok(None));
        assert_eq!(values("{\"a\": 1}"), Ok(Some(json!({"a": 1}))));
        assert!(values("[1]").is_err());
    }
}
