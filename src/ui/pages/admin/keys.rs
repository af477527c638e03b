//! *API keys*: create, limit, look at and revoke.

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::Method;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::ui::Ui;
use crate::ui::call::{Page, segment, with_query};
use crate::ui::error::UiError;
use crate::ui::format::{Clock, number};
use crate::ui::pages::{
    ListQuery, PageResult, add, given, is_changed, present, refused, render, with_secret, without_separators,
};
use crate::ui::session::Visitor;
use crate::ui::shell::{Section, Shell, back, redirect_done};

pub(in crate::ui::pages) fn router() -> Router<Ui> {
    Router::new()
        .route("/ui/keys", get(list).post(create))
        .route("/ui/keys/{id}", get(show_one))
        .route("/ui/keys/{id}/limits", post(limit))
        .route("/ui/keys/{id}/revoke", post(revoke))
}

#[derive(Debug, Deserialize)]
struct Key {
    id: String,
    name: String,
    mode: String,
    scopes: Vec<String>,
    sender_domains: Option<Vec<String>>,
    allowed_ips: Option<Vec<String>>,
    rate: Option<Rate>,
    quota: Option<Quota>,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    /// Only of a single key.
    usage: Option<Usage>,
}

/// The limit of the requests of a key or a tenant.
#[derive(Debug, Deserialize)]
pub(super) struct Rate {
    pub requests_per_second: i64,
    pub burst: i64,
}

/// The limit of the recipients of a key or a tenant.
#[derive(Debug, Deserialize)]
pub(super) struct Quota {
    pub recipients_per_day: i64,
}

/// The use of a quota on the current day.
#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub recipients: i64,
    pub remaining: i64,
    pub resets_at: DateTime<Utc>,
}

/// The fields of the limits of a key or a tenant, as they are typed. Empty means no limit.
#[derive(Debug, Default, Deserialize)]
pub(super) struct LimitsForm {
    #[serde(default)]
    pub requests_per_second: String,
    #[serde(default)]
    pub burst: String,
    #[serde(default)]
    pub recipients_per_day: String,
    /// The texts that the form was opened with.
    was_requests_per_second: Option<String>,
    was_burst: Option<String>,
    was_recipients_per_day: Option<String>,
}

impl LimitsForm {
    /// Creates the fields of these limits.
    pub(super) fn new(rate: Option<&Rate>, quota: Option<&Quota>) -> Self {
        let text = |number: Option<i64>| number.map_or_else(String::new, |number| number.to_string());
        let requests_per_second = text(rate.map(|rate| rate.requests_per_second));
        let burst = text(rate.map(|rate| rate.burst));
        let recipients_per_day = text(quota.map(|quota| quota.recipients_per_day));
        Self {
            was_requests_per_second: Some(requests_per_second.clone()),
            was_burst: Some(burst.clone()),
            was_recipients_per_day: Some(recipients_per_day.clone()),
            requests_per_second,
            burst,
            recipients_per_day,
        }
    }

    /// Returns the texts that the form was opened with, for its hidden fields.
    pub(super) fn opened_with(&self) -> Vec<(&'static str, &str)> {
        present([
            ("was_requests_per_second", &self.was_requests_per_second),
            ("was_burst", &self.was_burst),
            ("was_recipients_per_day", &self.was_recipients_per_day),
        ])
    }

    /// Adds the limits that were changed to the body of a change; fails with the reason if a field is not a number. The rate is
    /// one value with two fields.
    pub(super) fn add_to(&self, body: &mut Map<String, Value>) -> Result<(), String> {
        let requests = whole("Requests per second", &self.requests_per_second)?;
        let burst = whole("Burst", &self.burst)?;
        let recipients = whole("Recipients per day", &self.recipients_per_day)?;
        if burst.is_some() && requests.is_none() {
            return Err("Burst: set Requests per second, too.".to_owned());
        }
        let rate = requests.map(|requests| match burst {
            Some(burst) => json!({"requests_per_second": requests, "burst": burst}),
            None => json!({"requests_per_second": requests}),
        });
        if is_changed(&self.requests_per_second, self.was_requests_per_second.as_deref())
            || is_changed(&self.burst, self.was_burst.as_deref())
        {
            body.insert("rate".to_owned(), rate.unwrap_or_default());
        }
        if is_changed(&self.recipients_per_day, self.was_recipients_per_day.as_deref()) {
            let quota = recipients.map_or(Value::Null, |count| json!({"recipients_per_day": count}));
            body.insert("quota".to_owned(), quota);
        }
        Ok(())
    }
}

/// Parses an optional field with a whole number.
fn whole(name: &str, text: &str) -> Result<Option<i64>, String> {
    let Some(text) = given(text) else { return Ok(None) };
    without_separators(text).parse().map(Some).map_err(|_| format!("{name}: write a whole number, or leave it empty."))
}

impl Key {
    fn messages_path(&self) -> String {
        with_query("/ui/messages", &[("q", &format!("key:{}", self.id))])
    }

    fn has_expired(&self, clock: &Clock) -> bool {
        self.expires_at.is_some_and(|at| at <= clock.0)
    }

    fn may_change(&self) -> bool {
        self.revoked_at.is_none()
    }
}

/// A new key, whose secret is shown once.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Created {
    pub name: String,
    pub secret: String,
}

#[derive(Template)]
#[template(path = "keys.html")]
struct KeysPage {
    shell: Shell,
    clock: Clock,
    own: String,
    created: Option<Created>,
    fault: Option<String>,
    /// What was typed into the form.
    typed: NewKey,
    keys: Vec<Key>,
    is_first: bool,
    next: Option<String>,
}

impl KeysPage {
    /// Returns the fields of the limits.
    fn limits(&self) -> &LimitsForm {
        &self.typed.limits
    }
}

async fn list(visitor: Visitor, Query(query): Query<ListQuery>) -> PageResult {
    show(&visitor, &query.after, None, None).await
}

/// Returns the list, with a new key, or with a refused form and the reason.
async fn show(
    visitor: &Visitor,
    after: &str,
    created: Option<Created>,
    refused: Option<(NewKey, String)>,
) -> PageResult {
    let (typed, fault) = refused.map_or_else(Default::default, |(typed, fault)| (typed, Some(fault)));
    let mut params = vec![("limit", "50")];
    add(&mut params, "after", after);
    let page: Page<Key> = visitor.get(&with_query("/v1/keys", &params)).await?;
    render(&KeysPage {
        shell: Shell::new(visitor, Section::Keys, "API keys"),
        clock: Clock(visitor.api().now()),
        own: visitor.key_id.to_string(),
        created,
        fault,
        typed,
        keys: page.data,
        is_first: after.is_empty(),
        next: page.next.map(|next| with_query("/ui/keys", &[("after", &next)])),
    })
}

#[derive(Debug, Default, Deserialize)]
struct NewKey {
    name: String,
    #[serde(default)]
    role: String,
    #[serde(default)]
    mode: String,
    #[serde(default)]
    sender_domains: String,
    #[serde(default)]
    allowed_ips: String,
    /// Days until the key expires; empty: never.
    #[serde(default)]
    days: String,
    #[serde(flatten)]
    limits: LimitsForm,
}

impl NewKey {
    /// Returns the body of the request; fails with the reason if a field is not valid.
    fn body(&self, now: DateTime<Utc>) -> Result<Value, String> {
        let scopes = match self.role.as_str() {
            "admin" => json!(["admin"]),
            "read" => json!(["read"]),
            "metadata" => json!(["metadata"]),
            "send" => json!(["send"]),
            _ => json!(["send", "read"]),
        };
        let mut body = Map::from_iter([("name".to_owned(), json!(self.name.trim())), ("scopes".to_owned(), scopes)]);
        self.limits.add_to(&mut body)?;
        body.retain(|_, value| !value.is_null());
        if self.mode == "test" {
            body.insert("mode".to_owned(), json!("test"));
        }
        for (name, text) in [("sender_domains", &self.sender_domains), ("allowed_ips", &self.allowed_ips)] {
            if let Some(list) = listed(text) {
                body.insert(name.to_owned(), list);
            }
        }
        if let Some(days) = whole("Expires after", &self.days)? {
            let at = TimeDelta::try_days(days).and_then(|days| now.checked_add_signed(days));
            let at = at.ok_or("Expires after: write a smaller number of days.")?;
            body.insert("expires_at".to_owned(), json!(at.to_rfc3339_opts(SecondsFormat::Secs, true)));
        }
        Ok(Value::Object(body))
    }
}

/// Returns the entries of a list that is separated by commas or spaces; `None` if it is empty.
fn listed(text: &str) -> Option<Value> {
    let names: Vec<&str> = given(text)?.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    Some(json!(names))
}

/// Creates a key. Its secret is in the response itself, because a redirect would have to keep it somewhere.
async fn create(visitor: Visitor, Form(form): Form<NewKey>) -> Result<Response, UiError> {
    let created = match form.body(visitor.api().now()) {
        Ok(body) => visitor.post("/v1/keys", Some(&body)).await,
        Err(fault) => Err(UiError::new(422, fault)),
    };
    match created {
        Ok(created) => {
            let created: Created = serde_json::from_slice(&created).map_err(|error| UiError::unreadable(&error))?;
            let page = show(&visitor, "", Some(created.clone()), None).await;
            with_secret(page, &visitor, (Section::Keys, "/ui/keys"), &created.secret).map(IntoResponse::into_response)
        }
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show(&visitor, "", None, Some((form, fault))).await)
        }
    }
}

#[derive(Template)]
#[template(path = "key.html")]
struct KeyPage {
    shell: Shell,
    clock: Clock,
    own: String,
    key: Key,
    fault: Option<String>,
    /// The limits as they are, or as they were typed.
    form: KeyLimits,
}

impl KeyPage {
    /// Returns the fields of the limits.
    fn limits(&self) -> &LimitsForm {
        &self.form.limits
    }
}

async fn show_one(visitor: Visitor, Path(id): Path<String>) -> PageResult {
    show_key(&visitor, &id, None).await
}

/// Returns the page of a key, with a refused form and the reason.
async fn show_key(visitor: &Visitor, id: &str, refused: Option<(KeyLimits, String)>) -> PageResult {
    let key: Key = visitor.get(&format!("/v1/keys/{}", segment(id))).await?;
    let (form, fault) = refused.map_or_else(|| (KeyLimits::new(&key), None), |(form, fault)| (form, Some(fault)));
    render(&KeyPage {
        shell: Shell::new(visitor, Section::Keys, key.name.as_str()).at(format!("/ui/keys/{}", segment(id))),
        clock: Clock(visitor.api().now()),
        own: visitor.key_id.to_string(),
        key,
        fault,
        form,
    })
}

/// The form of a key's limits.
#[derive(Debug, Deserialize)]
struct KeyLimits {
    #[serde(default)]
    allowed_ips: String,
    /// The networks that the form was opened with.
    was_allowed_ips: Option<String>,
    #[serde(flatten)]
    limits: LimitsForm,
}

impl KeyLimits {
    /// Creates the form of a key's limits.
    fn new(key: &Key) -> Self {
        let networks = key.allowed_ips.as_ref().map_or_else(String::new, |networks| networks.join(", "));
        Self {
            was_allowed_ips: Some(networks.clone()),
            allowed_ips: networks,
            limits: LimitsForm::new(key.rate.as_ref(), key.quota.as_ref()),
        }
    }

    /// Returns the body of a change; fails with the reason if a field is not valid.
    fn body(&self) -> Result<Value, String> {
        let mut body = Map::new();
        self.limits.add_to(&mut body)?;
        if is_changed(&self.allowed_ips, self.was_allowed_ips.as_deref()) {
            body.insert("allowed_ips".to_owned(), listed(&self.allowed_ips).unwrap_or_default());
        }
        Ok(Value::Object(body))
    }
}

async fn limit(visitor: Visitor, Path(id): Path<String>, Form(form): Form<KeyLimits>) -> Result<Response, UiError> {
    let changed = match form.body() {
        Ok(body) => visitor.change(Method::PATCH, &format!("/v1/keys/{}", segment(&id)), Some(&body)).await,
        Err(fault) => Err(UiError::new(422, fault)),
    };
    match changed {
        Ok(_) => Ok(redirect_done(&format!("/ui/keys/{}", segment(&id)), "limits-changed").into_response()),
        Err(error) => {
            let fault = error.refusal()?.text();
            refused(show_key(&visitor, &id, Some((form, fault))).await)
        }
    }
}

#[derive(Debug, Deserialize)]
struct RevokeForm {
    #[serde(default)]
    next: String,
}

async fn revoke(visitor: Visitor, Path(id): Path<String>, Form(form): Form<RevokeForm>) -> Result<Redirect, UiError> {
    visitor.change(Method::DELETE, &format!("/v1/keys/{}", segment(&id)), None).await?;
    Ok(redirect_done(back(&form.next, "/ui/keys"), "revoked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_limits_remove_them() {
        let form = LimitsForm { recipients_per_day: "50,000".into(), ..LimitsForm::default() };
        let mut body = Map::new();
        form.add_to(&mut body).unwrap();
        assert_eq!(Value::Object(body), json!({"rate": null, "quota": {"recipients_per_day": 50_000}}));
        let form = LimitsForm { requests_per_second: "ten".into(), ..LimitsForm::default() };
        assert!(form.add_to(&mut Map::new()).unwrap_err().starts_with("Requests per second: "));
        assert!(whole("Burst", "1,5").is_err(), "a decimal comma");
    }

    #[test]
    fn limits_that_were_not_changed_are_not_sent() {
        let body = |form: &LimitsForm| {
            let mut body = Map::new();
            form.add_to(&mut body).unwrap();
            Value::Object(body)
        };
        let rate = Rate { requests_per_second: 10, burst: 20 };
        let form = LimitsForm::new(Some(&rate), None);
        assert_eq!(body(&form), json!({}));
        assert_eq!(
            body(&LimitsForm { recipients_per_day: "5".into(), ..form }),
            json!({"quota": {"recipients_per_day": 5}})
        );
        let form = LimitsForm { burst: "30".into(), ..LimitsForm::new(Some(&rate), None) };
        assert_eq!(body(&form), json!({"rate": {"requests_per_second": 10, "burst": 30}}));
    }
}
