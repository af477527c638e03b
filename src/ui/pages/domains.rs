//! *Domains*: the DNS records to publish, and what was found.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::json;

use super::{ListQuery, PageResult, add, refused, render};
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, tone};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(super) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/domains", get(list).post(register))
        .route("/ui/domains/{name}", get(show))
        .route("/ui/domains/{name}/{action}", post(act))
}

#[derive(Debug, Deserialize)]
struct Domain {
    name: String,
    status: String,
    created_at: DateTime<Utc>,
    checked_at: Option<DateTime<Utc>>,
    verified_at: Option<DateTime<Utc>>,
    dmarc: Option<String>,
    keys: Vec<DkimKey>,
    records: Vec<Record>,
}

#[derive(Debug, Deserialize)]
struct DkimKey {
    selector: String,
    algorithm: String,
    state: String,
    created_at: DateTime<Utc>,
    retire_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    value: String,
    purpose: String,
    status: String,
    found: Vec<String>,
    /// How to fix the record.
    fix: Option<String>,
    warning: Option<String>,
}

impl Domain {
    fn segment(&self) -> String {
        segment(&self.name)
    }

    /// Returns the number of records that are not published correctly.
    fn faults(&self) -> usize {
        self.records.iter().filter(|record| record.status != "ok").count()
    }
}

impl Record {
    /// Returns how to fix the record. The name and the value are on the page already.
    fn fix_text(&self) -> Option<&str> {
        let fix = self.fix.as_deref()?;
        Some(if self.status == "missing" && fix.contains(&self.value) { "Publish this record." } else { fix })
    }

    fn purpose_text(&self) -> &str {
        match self.purpose.as_str() {
            "dkim" => "DKIM: verifies the signatures",
            "spf" => "SPF: lists the servers that may send",
            "dmarc" => "DMARC: what receivers do with forgeries",
            "return_path" => "Return path: where bounces go",
            "return_path_spf" => "SPF of the return path",
            "helo_spf" => "SPF of the hostname",
            other => other,
        }
    }
}

#[derive(Template)]
#[template(path = "domains.html")]
struct DomainsPage {
    shell: Shell,
    clock: Clock,
    fault: Option<String>,
    /// The name that was typed into the form.
    typed: String,
    domains: Vec<Domain>,
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
    let page: Page<Domain> = visitor.get(&with_query("/v1/domains", &params)).await?;
    render(&DomainsPage {
        shell: Shell::new(visitor, Section::Domains, "Domains"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        domains: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/domains", &[("after", &next)])),
    })
}

#[derive(Template)]
#[template(path = "domain.html")]
struct DomainPage {
    shell: Shell,
    clock: Clock,
    domain: Domain,
}

async fn show(visitor: Visitor, Path(name): Path<String>) -> PageResult {
    let domain: Domain = visitor.get(&format!("/v1/domains/{}", segment(&name))).await?;
    let shell = Shell::new(&visitor, Section::Domains, domain.name.as_str());
    render(&DomainPage { shell, clock: Clock(visitor.api().now()), domain })
}

#[derive(Debug, Deserialize)]
struct NewDomain {
    name: String,
}

async fn register(visitor: Visitor, Form(form): Form<NewDomain>) -> Result<Response, UiError> {
    match visitor.post("/v1/domains", Some(&json!({"name": form.name.trim()}))).await {
        Ok(created) => {
            let domain: Domain = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            Ok(redirect_done(&format!("/ui/domains/{}", domain.segment()), "added").into_response())
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_list(&visitor, "", Some((form.name, fault))).await)
        }
    }
}

async fn act(visitor: Visitor, Path((name, action)): Path<(String, String)>) -> Result<Redirect, UiError> {
    if action == "remove" {
        visitor.change(Method::DELETE, &format!("/v1/domains/{}", segment(&name)), None).await?;
        return Ok(redirect_done("/ui/domains", "removed"));
    }
    let done = match action.as_str() {
        "verify" => "verified",
        "rotate" => "rotated",
        _ => return Err(UiError::not_found("There is no such action.")),
    };
    let name = segment(&name);
    visitor.post(&format!("/v1/domains/{name}/{action}"), None).await?;
    Ok(redirect_done(&format!("/ui/domains/{name}"), done))
}
