//! Parses the bodies of `POST /v1/webhooks` and `PATCH /v1/webhooks/{id}`.

use url::Url;

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Fault, Faults};
use crate::domain::event::EventType;
use crate::domain::webhook::endpoint::{
    BATCH, CONCURRENCY, EndpointChange, MAX_DESCRIPTION, MAX_URL, PostFormat, RATE, Settings,
};

/// The fields of a new webhook endpoint.
const FIELDS: &[&str] = &["url", "events", "description", "concurrency", "rate", "batch", "format"];
/// The fields that may be changed.
const CHANGES: &[&str] = &["url", "events", "description", "concurrency", "rate", "batch", "format", "disabled"];

/// Parses a new webhook endpoint: its URL and its settings. The caller checks whether the URL's address is allowed.
pub fn parse(body: &[u8]) -> Result<(Url, Settings), Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let endpoint = Fields::open(value, &at, FIELDS, &mut faults).and_then(|mut fields| {
        let url = fields.require("url", &mut faults).and_then(|node| url(node, &mut faults));
        let settings = settings(&mut fields, &mut faults);
        Some((url?, settings))
    });
    match endpoint {
        Some(endpoint) if faults.is_empty() => {
            check_batch(&endpoint.1, 1, PostFormat::Postrider)?;
            Ok(endpoint)
        }
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Fails if the settings combine batches with Resend's format, which has no batches. `batch` and `format` are the
/// values of settings that are missing.
pub fn check_batch(settings: &Settings, batch: i16, format: PostFormat) -> Result<(), Rejection> {
    let batch = settings.batch.unwrap_or(batch);
    if batch <= 1 || settings.format.unwrap_or(format) != PostFormat::Resend {
        return Ok(());
    }
    let pointer = if settings.batch.is_some() { "/batch" } else { "/format" };
    let message = format!("the format `resend` has one event in each post; set `batch` to 1, not {batch}");
    Err(Rejection::Invalid(vec![Fault { pointer: pointer.into(), code: Code::InvalidValue.as_str(), message }]))
}

/// Parses changes to a webhook endpoint: `null` resets `events`, `description` and `rate` to the default, a missing
/// field keeps the value.
pub fn parse_change(body: &[u8]) -> Result<EndpointChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let change = Fields::open(value, &at, CHANGES, &mut faults).map(|mut fields| EndpointChange {
        url: fields.take("url").and_then(|node| url(node, &mut faults)),
        disabled: fields.take("disabled").and_then(|node| node.boolean(&mut faults)),
        settings: settings(&mut fields, &mut faults),
    });
    match change {
        Some(change) if faults.is_empty() => Ok(change),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn settings(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Settings {
    Settings {
        description: fields
            .change("description", |node| node.line(0..=MAX_DESCRIPTION, faults).map(std::borrow::Cow::into_owned)),
        events: fields.change("events", |node| events(node, faults)),
        concurrency: fields.take("concurrency").and_then(|node| node.whole(CONCURRENCY, faults)),
        rate: fields.change("rate", |node| node.number(RATE, faults)),
        batch: fields.take("batch").and_then(|node| node.whole(BATCH, faults)),
        format: fields.take("format").and_then(|node| format(node, faults)),
    }
}

fn format(node: Node<'_, '_>, faults: &mut Faults) -> Option<PostFormat> {
    let at = node.at;
    let format = node.string(faults)?.parse().ok();
    if format.is_none() {
        at.fault(faults, Code::InvalidValue, "use `postrider` or `resend`");
    }
    format
}

fn url(node: Node<'_, '_>, faults: &mut Faults) -> Option<Url> {
    let at = node.at;
    let text = node.line(1..=MAX_URL, faults)?;
    let fault = match Url::parse(&text) {
        Err(error) => format!("must be a URL such as https://example.com/hooks: {error}"),
        Ok(url) if !matches!(url.scheme(), "http" | "https") => "must begin with https:// or http://".into(),
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            "must not contain a user or password; verify the signature of deliveries instead".into()
        }
        Ok(url) if url.fragment().is_some() => "must not contain a fragment (#…), which is never sent".into(),
        // Encoding makes non-ASCII characters longer.
        Ok(url) if url.as_str().len() > MAX_URL => {
            at.fault(faults, Code::TooLong, format_args!("must have at most {MAX_URL} characters after encoding"));
            return None;
        }
        Ok(url) => return Some(url),
    };
    at.fault(faults, Code::InvalidUrl, fault);
    None
}

fn events(node: Node<'_, '_>, faults: &mut Faults) -> Option<Vec<EventType>> {
    let list = node.at;
    let before = faults.len();
    let known = EventType::ALL.len();
    let mut types = Vec::new();
    node.each(known, format_args!("at most {known} types are allowed"), faults, |node, faults| {
        let at = node.at;
        match node.string(faults).map(|name| name.parse::<EventType>()) {
            Some(Ok(kind)) if types.contains(&kind) => {
                at.fault(faults, Code::DuplicateValue, format_args!("duplicate type `{kind}`"));
            }
            Some(Ok(kind)) => types.push(kind),
            Some(Err(error)) => {
                let known = EventType::ALL.map(EventType::as_str).join(", ");
                at.fault(faults, Code::InvalidValue, format_args!("{error}; use one of {known}"));
            }
            None => {}
        }
    });
    if types.is_empty() && faults.len() == before {
        list.fault(faults, Code::Required, "must have at least one type, or be null for all types");
    }
    (faults.len() == before).then_some(types)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::limits::Change;

    fn faults(rejection: Rejection) -> Vec<(String, &'static str)> {
        let Rejection::Invalid(faults) = rejection else { return Vec::new() };
        let mut found: Vec<_> = faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect();
        found.sort();
        found
    }

    fn parse_url(url: &str) -> Result<String, &'static str> {
        let body = serde_json::json!({ "url": url }).to_string();
        parse(body.as_bytes()).map(|(url, _)| url.into()).map_err(|rejection| faults(rejection)[0].1)
    }

    #[test]
    fn only_the_url_is_required() {
        let (url, settings) = parse(br#"{"url": "https://hooks.acme.test/mail?key=1"}"#).expect("valid");
        assert_eq!((url.as_str(), settings), ("https://hooks.acme.test/mail?key=1", Settings::default()));
    }

    #[test]
    fn only_http_urls_are_accepted() {
        assert_eq!(parse_url("HTTP://Bücher.test:8080/a b"), Ok("http://xn--bcher-kva.test:8080/a%20b".into()));
        for (url, code) in [
            ("", "required"),
            ("hooks.acme.test", "invalid_url"),
            ("/hooks", "invalid_url"),
            ("ftp://hooks.acme.test/", "invalid_url"),
            ("mailto:a@acme.test", "invalid_url"),
            ("https://", "invalid_url"),
            ("https://a:b@hooks.acme.test/", "invalid_url"),
            ("https://a@hooks.acme.test/", "invalid_url"),
            ("https://hooks.acme.test/#x", "invalid_url"),
            ("https://hooks.acme.test:99999/", "invalid_url"),
            ("https://hooks.acme.test/\nx", "control_character"),
            (&format!("https://hooks.acme.test/{}", "x".repeat(MAX_URL)), "too_long"),
            (&format!("https://hooks.acme.test/{}", "ö".repeat(1_000)), "too_long"),
        ] {
            assert_eq!(parse_url(url), Err(code), "{url}");
        }
    }

    #[test]
    fn every_fault_is_reported() {
        let body = br#"{"events": ["message.bounced", "message.lost", "message.bounced", 5], "description": ["x"],
                        "concurrency": 257, "rate": 0, "batch": 101, "disabled": true}"#;
        let expected = [
            ("/batch", "invalid_value"),
            ("/concurrency", "invalid_value"),
            ("/description", "invalid_type"),
            ("/disabled", "unknown_field"),
            ("/events/1", "invalid_value"),
            ("/events/2", "duplicate_value"),
            ("/events/3", "invalid_type"),
            ("/rate", "invalid_value"),
            ("/url", "required"),
        ];
        let found = faults(parse(body).expect_err("not valid"));
        assert_eq!(found, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        let empty = faults(parse_change(br#"{"events": [], "disabled": "no"}"#).expect_err("not valid"));
        let expected = [("/disabled", "invalid_type"), ("/events", "required")];
        assert_eq!(empty, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn format_of_resend_has_no_batches() {
        let body = br#"{"url": "https://a.test", "format": "resend", "batch": 2}"#;
        let expected = [("/batch".to_owned(), "invalid_value")];
        assert_eq!(faults(parse(body).expect_err("not valid")), expected);
        assert!(parse(br#"{"url": "https://a.test", "format": "resend", "batch": 1}"#).is_ok());
        let check = |body: &str, batch, format| {
            let settings = parse_change(body.as_bytes()).expect("valid").settings;
            check_batch(&settings, batch, format).map_err(|rejection| faults(rejection)[0].0.clone())
        };
        let (own, resend) = (PostFormat::Postrider, PostFormat::Resend);
        assert_eq!(check(r#"{"batch": 2}"#, 1, resend), Err("/batch".into()));
        assert_eq!(check(r#"{"format": "resend"}"#, 2, own), Err("/format".into()));
        assert_eq!(check(r#"{"format": "resend", "batch": 1}"#, 2, own), Ok(()));
        assert_eq!(check(r#"{"format": "postrider"}"#, 2, resend), Ok(()));
        assert_eq!(check(r#"{"batch": 2}"#, 1, own), Ok(()));
    }

    #[test]
    fn a_change_distinguishes_null_from_missing() {
        let change = parse_change(br#"{"events": null, "rate": 5, "disabled": false}"#).expect("valid");
        assert_eq!((change.settings.events, change.settings.rate), (Change::Clear, Change::Set(5.0)));
        assert_eq!((change.url, change.disabled, change.settings.description), (None, Some(false), Change::Keep));
    }
}
