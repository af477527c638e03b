//! `/suppressions`. Resend's entries have ids, but stored ones have none, so an id is derived: it begins with the time at
//! which the entry was created, by which a lookup finds the entry, and ends with a hash of the address and the stream. An
//! address is accepted in place of an id.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, TimeDelta, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::ids::{UuidId, derived};
use super::list::{List, PageRequest, Start};
use super::object::Deleted;
use super::request::{one_fault, read_object};
use super::times::format;
use crate::db::suppressions::list::{self as rows, Filter, Removal};
use crate::domain::address::Address;
use crate::domain::api::fault::Code;
use crate::domain::id::{MessageId, TenantId};
use crate::domain::key::Scope;
use crate::domain::suppression::{AddressKey, Reason, Suppression};
use crate::http::auth::Caller;
use crate::http::request::params::Params;
use crate::http::suppressions::control;
use crate::http::{Api, ApiError};

const NO_ENTRY: ApiError = ApiError::NotFound("No suppression has this id or address.");
/// Page size of the search for an id among the entries that were created in the same millisecond.
const SEARCH_PAGE: i64 = 1_000;
/// Maximum number of pages of this search. An entry on a later page is found only by its address.
const MAX_SEARCH_PAGES: usize = 20;
/// Maximum number of addresses in a batch.
const MAX_BATCH: usize = 100;

/// The id of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct EntryId(Uuid);

impl std::str::FromStr for EntryId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl UuidId for EntryId {
    fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl EntryId {
    fn new(tenant: TenantId, entry: &Suppression) -> Self {
        let part = format!("{}\n{}", entry.address, entry.stream.as_deref().unwrap_or_default());
        let mut bytes = *derived(tenant.0, &part).as_bytes();
        let millis = u64::try_from(entry.created_at.timestamp_millis()).unwrap_or(0).to_be_bytes();
        // 48 bits of time, as in a UUIDv7.
        bytes[..6].copy_from_slice(&millis[2..]);
        Self(Uuid::from_bytes(bytes))
    }
}

/// Finds the entries with these ids. The caller must hold a permit for slow queries.
async fn find(api: &Api, tenant: TenantId, ids: &[EntryId]) -> Result<BTreeMap<EntryId, Suppression>, ApiError> {
    let mut by_time: BTreeMap<DateTime<Utc>, Vec<EntryId>> = BTreeMap::new();
    for id in ids {
        by_time.entry(MessageId(id.0).accepted_at()).or_default().push(*id);
    }
    let mut found = BTreeMap::new();
    for (time, ids) in by_time {
        // A UUID that is not the id of an entry may contain a time thousands of years ahead, which no entry has.
        if time.timestamp() < 250_000_000_000 {
            find_at(api, tenant, (time, &ids), &mut found).await?;
        }
    }
    Ok(found)
}

/// Finds the entries with these ids, which were all created in the same millisecond.
async fn find_at(
    api: &Api,
    tenant: TenantId,
    (time, ids): (DateTime<Utc>, &[EntryId]),
    found: &mut BTreeMap<EntryId, Suppression>,
) -> Result<(), ApiError> {
    let (created_after, created_before) = (Some(time), Some(time + TimeDelta::milliseconds(1)));
    let mut filter = Filter { created_after, created_before, ..Filter::default() };
    for _ in 0..MAX_SEARCH_PAGES {
        let page = rows::page(&api.db, tenant, &filter, SEARCH_PAGE, api.clock.now()).await?;
        let is_last = usize::try_from(SEARCH_PAGE).is_ok_and(|size| page.len() < size);
        filter.after = page.last().map(cursor);
        for entry in page {
            let id = EntryId::new(tenant, &entry);
            if ids.contains(&id) {
                found.insert(id, entry);
            }
        }
        if is_last || ids.iter().all(|id| found.contains_key(id)) {
            break;
        }
    }
    Ok(())
}

fn cursor(entry: &Suppression) -> (DateTime<Utc>, String, String) {
    (entry.created_at, entry.address.to_string(), entry.stream.clone().unwrap_or_default())
}

/// The entries that were found, each under the id or address that the request names it by.
type Found = BTreeMap<String, Suppression>;

/// Finds the entries with these ids or addresses.
async fn find_by_text(api: &Api, caller: &Caller, texts: &[String]) -> Result<Found, ApiError> {
    let (tenant, mut found) = (caller.tenant(), Found::new());
    let mut ids: Vec<(&String, EntryId)> = Vec::new();
    for text in texts {
        if let Ok(id) = text.parse() {
            ids.push((text, id));
        } else if let Ok(address) = text.parse::<Address>() {
            let entries = rows::for_address(&api.db, tenant, &AddressKey::from(&address), api.clock.now()).await?;
            // The entry for all streams is first.
            found.extend(entries.into_iter().next().map(|entry| (text.clone(), entry)));
        }
    }
    if !ids.is_empty() {
        let _permit = api.slow_queries.acquire(caller.requester()).await?;
        let wanted: Vec<EntryId> = ids.iter().map(|(_, id)| *id).collect();
        let entries = find(api, tenant, &wanted).await?;
        let entry = |(text, id): (&String, EntryId)| Some((text.clone(), entries.get(&id)?.clone()));
        found.extend(ids.into_iter().filter_map(entry));
    }
    Ok(found)
}

/// Finds the entry with this id or address.
async fn find_one(api: &Api, caller: &Caller, text: String) -> Result<Suppression, ApiError> {
    let found = find_by_text(api, caller, &[text]).await?;
    found.into_values().next().ok_or(NO_ENTRY)
}

fn view(tenant: TenantId, entry: &Suppression) -> Value {
    json!({
        "object": "suppression",
        "id": EntryId::new(tenant, entry).0,
        "email": entry.address.to_string(),
        "origin": match entry.reason {
            Reason::HardBounce => "bounce",
            Reason::Complaint => "complaint",
            // Resend has no word for an opt-out.
            Reason::Manual | Reason::Unsubscribe => "manual",
        },
        "source_id": entry.message_id.map(|id| id.0),
        "created_at": format(entry.created_at),
    })
}

#[derive(Debug, Deserialize)]
struct NewEntry {
    #[serde(default)]
    email: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Batch {
    #[serde(default)]
    emails: Option<Vec<String>>,
    #[serde(default)]
    ids: Option<Vec<String>>,
}

/// Adds an address. If it is on the list already, returns its entry.
pub(super) async fn add(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    require(&caller, Scope::Send)?;
    let body = api.bodies.json(&headers, body).await?;
    let new: NewEntry = read_object(&body.bytes)?;
    let email = new.email.filter(|email| !email.is_empty());
    let email = email.ok_or_else(|| one_fault("/email", Code::Required, "`email` is required"))?;
    let entry = add_all(&api, &caller, vec![("/email".into(), email)]).await?.pop().ok_or(ApiError::Internal)?;
    let view = json!({"object": "suppression", "id": EntryId::new(caller.tenant(), &entry).0});
    Ok((StatusCode::CREATED, Json(view)).into_response())
}

/// Adds up to 100 addresses.
pub(super) async fn add_many(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    require(&caller, Scope::Send)?;
    let body = api.bodies.json(&headers, body).await?;
    let emails = read_object::<Batch>(&body.bytes)?.emails.unwrap_or_default();
    check_size(emails.len(), "/emails")?;
    let emails = emails.into_iter().enumerate().map(|(n, email)| (format!("/emails/{n}"), email)).collect();
    let entries = add_all(&api, &caller, emails).await?;
    let tenant = caller.tenant();
    let data: Vec<Value> =
        entries.iter().map(|entry| json!({"object": "suppression", "id": EntryId::new(tenant, entry).0})).collect();
    Ok(Json(json!({"data": data})))
}

fn check_size(size: usize, pointer: &str) -> Result<(), ApiError> {
    if (1..=MAX_BATCH).contains(&size) {
        return Ok(());
    }
    Err(one_fault(pointer, Code::TooMany, "pass 1 to 100 entries").into())
}

/// Adds addresses, each given with its JSON pointer in the request, and returns their entries without duplicates.
async fn add_all(api: &Api, caller: &Caller, emails: Vec<(String, String)>) -> Result<Vec<Suppression>, ApiError> {
    let tenant = caller.tenant();
    let (mut entries, mut new) = (Vec::new(), Vec::new());
    let mut keys: Vec<AddressKey> = Vec::new();
    for (pointer, email) in emails {
        let address = email.trim().parse::<Address>();
        let address = address.map_err(|error| one_fault(&pointer, Code::InvalidAddress, &error.to_string()))?;
        let key = AddressKey::from(&address);
        if keys.contains(&key) {
            continue;
        }
        match rows::for_address(&api.db, tenant, &key, api.clock.now()).await?.into_iter().next() {
            // An entry that expires is replaced by one that does not.
            Some(entry) if entry.stream.is_none() && entry.expires_at.is_none() => entries.push(entry),
            _ => new.push(key.clone()),
        }
        keys.push(key);
    }
    if !new.is_empty() {
        let list: Vec<String> = new.iter().map(ToString::to_string).collect();
        Box::pin(control::put(api, caller, json!(list).to_string().as_bytes())).await?;
    }
    for key in new {
        entries.extend(rows::for_address(&api.db, tenant, &key, api.clock.now()).await?.into_iter().next());
    }
    Ok(entries)
}

/// Returns a page of the list, newest first.
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    mut params: Params,
) -> Result<Json<List<Value>>, ApiError> {
    require(&caller, Scope::Read)?;
    // The same origins as in [`view`].
    let reasons = params.read("origin", "Pass `bounce`, `complaint` or `manual`.", |origin| match origin {
        "bounce" => Some(vec![Reason::HardBounce]),
        "complaint" => Some(vec![Reason::Complaint]),
        "manual" => Some(vec![Reason::Manual, Reason::Unsubscribe]),
        _ => None,
    });
    let PageRequest { limit, start } = PageRequest::<EntryId>::read(params)?;
    let tenant = caller.tenant();
    let mut filter = Filter { reasons, ..Filter::default() };
    let _permit = api.slow_queries.acquire(caller.requester()).await?;
    match start {
        Start::Newest => {}
        Start::After(id) => match find(&api, tenant, &[id]).await?.get(&id) {
            Some(entry) => filter.after = Some(cursor(entry)),
            None => return Ok(Json(List::new(Vec::new(), false))),
        },
        Start::Before(_) => {
            return Err(one_fault("before", Code::NotAvailable, "this list has no `before`; use `after`").into());
        }
    }
    let entries = rows::page(&api.db, tenant, &filter, limit + 1, api.clock.now()).await?;
    Ok(Json(List::cut(entries, limit, |entry| view(tenant, &entry))))
}

/// The id or address in a path.
type EntryPath = Result<Path<String>, PathRejection>;

/// Returns an entry.
pub(super) async fn get(State(api): State<Api>, caller: Caller, path: EntryPath) -> Result<Json<Value>, ApiError> {
    require(&caller, Scope::Read)?;
    let Path(text) = path.map_err(|_| NO_ENTRY)?;
    let entry = find_one(&api, &caller, text).await?;
    Ok(Json(view(caller.tenant(), &entry)))
}

/// Removes an entry by its id, or all entries of an address.
pub(super) async fn remove(State(api): State<Api>, caller: Caller, path: EntryPath) -> Result<Json<Deleted>, ApiError> {
    require(&caller, Scope::Admin)?;
    let Path(text) = path.map_err(|_| NO_ENTRY)?;
    let entry = find_one(&api, &caller, text.clone()).await?;
    let (id, removal) = removal(&caller, &text, entry);
    control::remove_all(&api, &caller, &[removal]).await?;
    Ok(Json(Deleted::new("suppression", id.0)))
}

/// Returns the id of an entry that was found by `text`, and the removal that the request asks for: of this entry if
/// `text` is an id, or of all entries for the address.
fn removal(caller: &Caller, text: &str, entry: Suppression) -> (EntryId, Removal) {
    let id = EntryId::new(caller.tenant(), &entry);
    let is_id = text.parse::<Uuid>().is_ok();
    let stream = is_id.then(|| entry.stream.unwrap_or_default());
    (id, Removal { address: entry.address, stream })
}

/// Removes up to 100 entries. Those that do not exist are ignored.
pub(super) async fn remove_many(
    State(api): State<Api>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Value>, ApiError> {
    require(&caller, Scope::Admin)?;
    let body = api.bodies.json(&headers, body).await?;
    let batch: Batch = read_object(&body.bytes)?;
    let (texts, pointer) = match (batch.emails, batch.ids) {
        (Some(emails), None) => (emails, "/emails"),
        (None, Some(ids)) => (ids, "/ids"),
        (None, None) => return Err(one_fault("/emails", Code::Required, "pass `emails` or `ids`").into()),
        (Some(_), Some(_)) => return Err(one_fault("/ids", Code::InvalidValue, "pass either `emails` or `ids`").into()),
    };
    check_size(texts.len(), pointer)?;
    let mut found = find_by_text(&api, &caller, &texts).await?;
    let (mut data, mut removals) = (Vec::new(), Vec::new());
    for text in &texts {
        if let Some(entry) = found.remove(text) {
            let (id, removal) = removal(&caller, text, entry);
            data.push(Deleted::new("suppression", id.0));
            removals.push(removal);
        }
    }
    control::remove_all(&api, &caller, &removals).await?;
    Ok(Json(json!({"data": data})))
}

fn require(caller: &Caller, scope: Scope) -> Result<(), ApiError> {
    caller.require(scope)?;
    caller.require_all_domains("The suppression list applies to all sender domains.")
}
