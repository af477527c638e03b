//! *Inbound routes*: the addresses for which messages are received.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, Utc};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

use super::messages::Received;
use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::Clock;
use crate::ui::pages::{ListQuery, PageResult, add, refused, render};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, redirect_done};

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/inbound-routes", get(list).post(create))
        .route("/ui/inbound-routes/{id}", get(show))
        .route("/ui/inbound-routes/{id}/edit", post(edit))
        .route("/ui/inbound-routes/{id}/delete", post(delete))
}

#[derive(Debug, Deserialize)]
pub(super) struct InboundRoute {
    pub id: String,
    #[serde(rename = "match")]
    pub matches: String,
    action: Action,
    created_at: DateTime<Utc>,
}

#[derive(Debug, Deserialize)]
struct Action {
    #[serde(rename = "type")]
    kind: String,
    /// With `relay`, the URL of the server, without its password.
    to: Option<String>,
}

/// The actions, and what they do.
const ACTIONS: [(&str, &str); 3] = [
    ("webhook", "The message is stored; the application acts on the event message.received."),
    ("store", "The message is stored; the application reads it when it wants to."),
    ("relay", "The message is stored, and passed on to the server, unchanged and with retries."),
];

impl Action {
    /// Returns what happens with a message.
    fn text(&self) -> &'static str {
        ACTIONS.iter().find(|(kind, _)| *kind == self.kind).map_or("", |(_, text)| *text)
    }
}

/// Returns the actions that a form offers, and whether each is selected. An action that this page does not know stays
/// selected.
fn options(selected: &str) -> Vec<(&str, bool)> {
    let known = ACTIONS.iter().map(|(kind, _)| *kind);
    let other = Some(selected).filter(|kind| !kind.is_empty() && ACTIONS.iter().all(|(known, _)| known != kind));
    known.chain(other).map(|kind| (kind, kind == selected)).collect()
}

/// Returns the path of a route in the API.
pub(super) fn api_path(id: &str) -> String {
    format!("/v1/inbound-routes/{}", segment(id))
}

#[derive(Template)]
#[template(path = "inbound_routes.html")]
struct RoutesPage {
    shell: Shell,
    clock: Clock,
    fault: Option<String>,
    /// What was typed into the form.
    typed: RouteForm,
    routes: Vec<InboundRoute>,
    is_first: bool,
    next: Option<String>,
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show_list(&visitor, &query.after, None).await
}

/// Returns the list, with a refused form and the reason.
async fn show_list(visitor: &Visitor, after: &str, refused: Option<(RouteForm, String)>) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", after);
    let page: Page<InboundRoute> = visitor.get(&with_query("/v1/inbound-routes", &params)).await?;
    render(&RoutesPage {
        shell: Shell::new(visitor, Section::InboundRoutes, "Inbound routes"),
        clock: Clock(visitor.api().now()),
        fault,
        typed,
        routes: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/inbound-routes", &[("after", &next)])),
    })
}

/// The form of a route. The match of an existing one cannot be changed.
#[derive(Default, Deserialize)]
struct RouteForm {
    #[serde(rename = "match", default)]
    matches: String,
    #[serde(default)]
    action: String,
    /// The URL of the server of the action `relay`. It may contain the password.
    #[serde(default)]
    to: String,
    /// The password of the URL, if it is not in the URL.
    #[serde(default)]
    password: String,
}

impl RouteForm {
    fn action(&self) -> Value {
        match self.action.trim() {
            "relay" => json!({"type": "relay", "to": self.url()}),
            kind => json!({"type": kind}),
        }
    }

    /// Returns the URL of the server with its password. The API never returns a password, so the form asks for it at each change.
    fn url(&self) -> String {
        let to = self.to.trim();
        // `Url::set_password` keeps a `%` as it is.
        let password = utf8_percent_encode(&self.password, NON_ALPHANUMERIC).to_string();
        let with = Some(password.as_str()).filter(|password| !password.is_empty());
        with.and_then(|password| set_password(to, Some(password))).unwrap_or_else(|| to.to_owned())
    }

    /// Returns the URL of the server without its password, for a form that was refused. It is empty if it may contain a
    /// password in an unknown place.
    fn shown_to(&self) -> String {
        let to = self.to.trim();
        let has_none = || (!to.contains('@')).then(|| to.to_owned());
        set_password(to, None).or_else(has_none).unwrap_or_default()
    }
}

/// Returns a URL with this password, or without one; `None` if it has no place for a password.
fn set_password(url: &str, password: Option<&str>) -> Option<String> {
    let mut url = Url::parse(url).ok().filter(Url::has_host)?;
    url.set_password(password).ok()?;
    Some(url.into())
}

#[derive(Debug, Deserialize)]
struct Created {
    id: String,
}

async fn create(visitor: Visitor, Form(form): Form<RouteForm>) -> Result<Response, UiError> {
    let body = json!({"match": form.matches.trim(), "action": form.action()});
    match visitor.post("/v1/inbound-routes", Some(&body)).await {
        Ok(created) => {
            let created: Created = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            let path = format!("/ui/inbound-routes/{}", segment(&created.id));
            Ok(redirect_done(&path, "created").into_response())
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_list(&visitor, "", Some((form, fault))).await)
        }
    }
}

/// The maximum number of messages of a route that are counted.
const MAX_COUNTED: usize = 100;

#[derive(Template)]
#[template(path = "inbound_route.html")]
struct RoutePage {
    shell: Shell,
    clock: Clock,
    route: InboundRoute,
    /// How many messages it has received that are still stored.
    received: Count,
    last_received_at: Option<DateTime<Utc>>,
    fault: Option<String>,
    /// A refused form.
    typed: Option<RouteForm>,
}

/// A number of messages, which is not counted to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Count {
    counted: usize,
    has_more: bool,
}

impl Count {
    /// Returns the number in words.
    fn text(self) -> String {
        let least = if self.has_more { "more than " } else { "" };
        let noun = if self.counted == 1 { "message" } else { "messages" };
        format!("{least}{} {noun}", self.counted)
    }
}

async fn show(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    show_one(&visitor, &id, None).await
}

/// Returns the page of a route, with a refused form and the reason.
async fn show_one(visitor: &Visitor, id: &str, refused: Option<(RouteForm, String)>) -> PageResult {
    let (typed, fault) = refused.unzip();
    let route: InboundRoute = visitor.get(&api_path(id)).await?;
    let limit = MAX_COUNTED.to_string();
    let params = [("route", route.id.as_str()), ("limit", &limit)];
    let received: Page<Received> = visitor.get(&with_query("/v1/received", &params)).await?;
    let path = format!("/ui/inbound-routes/{}", segment(id));
    let mut shell = Shell::new(visitor, Section::InboundRoutes, route.matches.as_str());
    if fault.is_some() {
        // The page answers a form, so its own path has no page to come back to.
        shell = shell.at(path);
    }
    render(&RoutePage {
        shell,
        clock: Clock(visitor.api().now()),
        received: Count { counted: received.data.len(), has_more: received.next.is_some() },
        last_received_at: received.data.first().map(|message| message.received_at),
        fault,
        typed,
        route,
    })
}

impl RoutePage {
    /// Returns the actions that the form offers, and whether each is selected.
    fn options(&self) -> Vec<(&str, bool)> {
        options(self.typed.as_ref().map_or(&self.route.action.kind, |typed| &typed.action))
    }

    /// Returns the URL of the server that the form shows, without its password.
    fn to(&self) -> String {
        let stored = || self.route.action.to.clone().unwrap_or_default();
        self.typed.as_ref().map_or_else(stored, RouteForm::shown_to)
    }

    fn received_path(&self) -> String {
        with_query("/ui/received", &[("route", &self.route.id)])
    }
}

async fn edit(visitor: Visitor, Path(id): Path<String>, Form(form): Form<RouteForm>) -> Result<Response, UiError> {
    let body = json!({"action": form.action()});
    match visitor.change(Method::PATCH, &api_path(&id), Some(&body)).await {
        Ok(_) => Ok(redirect_done(&format!("/ui/inbound-routes/{}", segment(&id)), "changed").into_response()),
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_one(&visitor, &id, Some((form, fault))).await)
        }
    }
}

async fn delete(visitor: Visitor, Path(id): Path<String>) -> Result<Redirect, UiError> {
    visitor.change(Method::DELETE, &api_path(&id), None).await?;
    Ok(redirect_done("/ui/inbound-routes", "deleted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_action_stays_selected() {
        let known = |selected| ["webhook", "store", "relay"].map(|kind| (kind, kind == selected));
        assert_eq!(options("store"), known("store"));
        assert_eq!(options(""), known(""));
        assert_eq!(options("later"), [known("").as_slice(), &[("later", true)]].concat());
    }

    #[test]
    fn password_is_sent_to_the_api_and_not_shown() {
        let form = |to: &str, password: &str| RouteForm {
            action: "relay".into(),
            to: to.into(),
            password: password.into(),
            ..RouteForm::default()
        };
        let shown = "smtp://u@m.test:25?tls=required";
        let separate = form(shown, "p%2F@");
        assert_eq!(separate.action()["to"], "smtp://u:p%252F%40@m.test:25?tls=required");
        assert_eq!(separate.shown_to(), shown);
        assert_eq!(form(shown, "").action()["to"], shown);
        let inside = form(" smtp://u:hunter2@m.test:25?tls=required", "");
        assert_eq!(inside.action()["to"], "smtp://u:hunter2@m.test:25?tls=required");
        assert_eq!(inside.shown_to(), shown);
        assert_eq!(form("u:hunter2@m.test", "").shown_to(), "");
        assert_eq!(form("m.test", "").shown_to(), "m.test");
        let store = RouteForm { action: "store".into(), ..form(shown, "p") };
        assert_eq!(store.action(), json!({"type": "store"}));
    }

    #[test]
    fn count_says_that_there_are_more() {
        for (counted, has_more, text) in
            [(0, false, "0 messages"), (1, false, "1 message"), (100, true, "more than 100 messages")]
        {
            assert_eq!(Count { counted, has_more }.text(), text);
        }
    }
}
