//! *Tenants*: for operators. Limits and their use, suspension, and deletion's progress.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::keys::{Created, LimitsForm, Quota, Rate, Usage};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, number, tone};
use crate::ui::pages::{ListQuery, PageResult, add, add_changed, given, present, refused, render, with_secret};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/tenants", get(list).post(create))
        .route("/ui/tenants/{id}", get(show))
        .route("/ui/tenants/{id}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Tenant {
    id: String,
    name: String,
    status: String,
    weight: i16,
    min_priority: Option<i16>,
    rate: Option<Rate>,
    quota: Option<Quota>,
    suspension: Option<Suspension>,
    deletion: Option<Deletion>,
    created_at: DateTime<Utc>,
    /// Only of a single tenant.
    usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
struct Suspension {
    at: DateTime<Utc>,
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Deletion {
    requested_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    messages: i64,
}

impl Tenant {
    /// Returns whether it can be changed: it is not being deleted.
    fn is_changeable(&self) -> bool {
        self.deletion.is_none()
    }
}

#[derive(Template)]
#[template(path = "tenants.html")]
struct TenantsPage {
    shell: Shell,
    clock: Clock,
    status: String,
    fault: Option<String>,
    /// What was typed into the form.
    typed: String,
    tenants: Vec<Tenant>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show_list(&visitor, query, None).await
}

/// Returns the list, with a refused name and the reason.
async fn show_list(visitor: &Visitor, query: ListQuery, refused: Option<(String, String)>) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "status", &query.filter);
    add(&mut params, "after", &query.after);
    let page: Page<Tenant> = visitor.get(&with_query("/v1/tenants", &params)).await?;
    render(&TenantsPage {
        shell: Shell::new(visitor, Section::Tenants, "Tenants"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        tenants: page.data,
        is_first: query.after.is_empty(),
        next: page.next.as_deref().map(|next| {
            let mut params = vec![("after", next)];
            add(&mut params, "filter", &query.filter);
            with_query("/ui/tenants", &params)
        }),
        status: query.filter,
    })
}

#[derive(Debug, Deserialize)]
struct NewTenant {
    name: String,
}

async fn create(visitor: Visitor, Form(form): Form<NewTenant>) -> Result<Response, UiError> {
    match visitor.post("/v1/tenants", Some(&json!({"name": form.name.trim()}))).await {
        Ok(created) => {
            let tenant: Tenant = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            Ok(redirect_done(&format!("/ui/tenants/{}", segment(&tenant.id)), "created").into_response())
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_list(&visitor, ListQuery::default(), Some((form.name, fault))).await)
        }
    }
}

#[derive(Template)]
#[template(path = "tenant.html")]
struct TenantPage {
    shell: Shell,
    clock: Clock,
    tenant: Tenant,
    /// A new API key of the tenant, whose secret is shown once.
    created: Option<Created>,
    fault: Option<String>,
    /// The action whose form was refused; empty: none.
    refused: String,
    /// The limits as they are, or the refused form as it was typed.
    form: ActionForm,
}

impl TenantPage {
    /// Returns the fields of the limits.
    fn limits(&self) -> &LimitsForm {
        &self.form.limits
    }

    /// Returns whether the form of an action was refused, and is open.
    fn is_refused(&self, action: &str) -> bool {
        self.refused == action
    }
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    show_one(&visitor, &id, None, None).await
}

/// A refused form, the action, and the reason.
type Refused = (ActionForm, String, String);

/// Returns the page of a tenant, with a new API key, or with a refused form.
async fn show_one(visitor: &Visitor, id: &str, created: Option<Created>, refused: Option<Refused>) -> PageResult {
    let tenant: Tenant = visitor.get(&format!("/v1/tenants/{}", segment(id))).await?;
    let current = ActionForm::new(&tenant);
    let (form, refused, fault) = match refused {
        Some((form, action, fault)) if action == "limits" => (form, action, Some(fault)),
        // The fields of the limits were not in the form.
        Some((form, action, fault)) => {
            (ActionForm { name: form.name, reason: form.reason, ..current }, action, Some(fault))
        }
        None => (current, String::new(), None),
    };
    let shell = Shell::new(visitor, Section::Tenants, tenant.name.as_str());
    let is_own = created.is_none() && fault.is_none();
    let path = if is_own { shell.path.clone() } else { format!("/ui/tenants/{}", segment(id)) };
    let (shell, clock) = (shell.at(path), Clock(visitor.api().now()));
    render(&TenantPage { shell, clock, tenant, created, fault, refused, form })
}

/// The form of an action. *Suspend* has a reason, *Create a key* a name, *Delete* the name of the tenant, *Limits* the other
/// fields.
#[derive(Debug, Default, Deserialize)]
struct ActionForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    weight: String,
    #[serde(default)]
    min_priority: String,
    /// The texts that the form was opened with.
    was_weight: Option<String>,
    was_min_priority: Option<String>,
    #[serde(flatten)]
    limits: LimitsForm,
}

impl ActionForm {
    /// Creates the form of a tenant's limits.
    fn new(tenant: &Tenant) -> Self {
        let weight = tenant.weight.to_string();
        let min_priority = tenant.min_priority.map_or_else(String::new, |priority| priority.to_string());
        Self {
            limits: LimitsForm::new(tenant.rate.as_ref(), tenant.quota.as_ref()),
            was_weight: Some(weight.clone()),
            was_min_priority: Some(min_priority.clone()),
            weight,
            min_priority,
            ..Self::default()
        }
    }

    /// Returns the texts that the form of the limits was opened with, for its hidden fields.
    fn opened_with(&self) -> Vec<(&'static str, &str)> {
        present([("was_weight", &self.was_weight), ("was_min_priority", &self.was_min_priority)])
    }

    /// Returns the body of a change of the limits; fails with the reason if a field is not valid.
    fn limits(&self) -> Result<Value, String> {
        let mut body = Map::new();
        self.limits.add_to(&mut body)?;
        let mut fields = vec![("min_priority", self.min_priority.as_str(), self.was_min_priority.as_deref())];
        // The weight has no default to return to.
        if given(&self.weight).is_some() {
            fields.push(("weight", self.weight.as_str(), self.was_weight.as_deref()));
        }
        add_changed(&mut body, &fields);
        Ok(Value::Object(body))
    }
}

async fn act(
    visitor: Visitor,
    Path((id, action)): Path<(String, String)>,
    Form(form): Form<ActionForm>,
) -> Result<Response, UiError> {
    if action == "key" {
        return create_key(&visitor, &id, form).await;
    }
    match change(&visitor, &id, &action, &form).await {
        Ok(done) => Ok(redirect_done(&format!("/ui/tenants/{}", segment(&id)), done).into_response()),
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_one(&visitor, &id, None, Some((form, action, fault))).await)
        }
    }
}

/// Changes the tenant, and returns the note about what was done.
async fn change(visitor: &Visitor, id: &str, action: &str, form: &ActionForm) -> Result<&'static str, UiError> {
    let api = format!("/v1/tenants/{}", segment(id));
    match action {
        "suspend" => {
            let reason = given(&form.reason).map(|reason| json!({"reason": reason}));
            visitor.post(&format!("{api}/suspend"), reason.as_ref()).await?;
            Ok("suspended")
        }
        "resume" => {
            visitor.post(&format!("{api}/resume"), None).await?;
            Ok("tenant-resumed")
        }
        "delete" => {
            let tenant: Tenant = visitor.get(&api).await?;
            if form.name.trim() != tenant.name.trim() {
                let fault = "Type the name of the tenant as it is written here. Nothing was deleted.";
                return Err(UiError::new(422, fault));
            }
            visitor.change(Method::DELETE, &api, None).await?;
            Ok("tenant-deleted")
        }
        "limits" => {
            let body = form.limits().map_err(|fault| UiError::new(422, fault))?;
            visitor.change(Method::PATCH, &api, Some(&body)).await?;
            Ok("limits-changed")
        }
        _ => Err(UiError::not_found("There is no such action.")),
    }
}

/// Creates the tenant's first API key, and shows its secret.
async fn create_key(visitor: &Visitor, id: &str, form: ActionForm) -> Result<Response, UiError> {
    let body = json!({"name": form.name.trim(), "tenant": id, "scopes": ["admin"]});
    match visitor.post("/v1/keys", Some(&body)).await {
        Ok(created) => {
            let created: Created = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            let shown = show_one(visitor, id, Some(created.clone()), None).await;
            let path = format!("/ui/tenants/{}", segment(id));
            let shown = with_secret(shown, visitor, (Section::Tenants, &path), &created.secret);
            shown.map(IntoResponse::into_response)
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_one(visitor, id, None, Some((form, "key".to_owned(), fault))).await)
        }
    }
}
