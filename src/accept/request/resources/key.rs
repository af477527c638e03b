//! Parses the body of `POST /v1/keys`.

use chrono::{DateTime, Utc};

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::message::schedule;
use crate::accept::request::{Context, Rejection, json};
use crate::domain::address::Address;
use crate::domain::fault::{Code, Faults};
use crate::domain::key::Scope;

/// The fields of the body.
const FIELDS: &[&str] = &["name", "scopes", "sender_domains", "expires_at"];
/// Maximum number of sender domains of one key.
const MAX_DOMAINS: usize = 100;

/// The requested key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// The key's name, 1–128 characters.
    pub name: String,
    /// The key's scopes, at least one.
    pub scopes: Vec<Scope>,
    /// The domains that the key may send from, as A-labels; `None` means any.
    pub sender_domains: Option<Vec<String>>,
    /// When the key expires, later than now; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Parses the body. Without `scopes`, the key gets `send` and `read`.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<KeyRequest, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let request = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| KeyRequest {
        name: name(&mut fields, &mut faults).unwrap_or_default(),
        scopes: scopes(&mut fields, &mut faults),
        sender_domains: sender_domains(&mut fields, &mut faults),
        expires_at: schedule::expires_at(fields.take("expires_at"), None, context, &mut faults),
    });
    if let Some(request) = &request
        && request.sender_domains.is_some()
        && request.scopes.contains(&Scope::Admin)
    {
        let message = "the scope `admin` includes all data of the tenant: leave out `sender_domains` or `admin`";
        Pointer::Field(&at, "sender_domains").fault(&mut faults, Code::InvalidValue, message);
    }
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn name(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Option<String> {
    fields.require("name", faults)?.line(1..=128, faults).map(std::borrow::Cow::into_owned)
}

fn scopes(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Vec<Scope> {
    let Some(node) = fields.take("scopes") else { return vec![Scope::Send, Scope::Read] };
    let mut scopes = Vec::new();
    let at = node.at;
    let before = faults.len();
    node.each(
        Scope::ALL.len(),
        format_args!("at most {} scopes are allowed", Scope::ALL.len()),
        faults,
        |node, faults| {
            let at = node.at;
            match node.string(faults).map(|name| name.parse::<Scope>()) {
                Some(Ok(scope)) if !scopes.contains(&scope) => scopes.push(scope),
                Some(Err(message)) => at.fault(faults, Code::InvalidValue, message),
                _ => {}
            }
        },
    );
    if scopes.is_empty() && faults.len() == before {
        at.fault(faults, Code::Required, "use at least one of `send`, `read` and `admin`");
    }
    scopes
}

fn sender_domains(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> Option<Vec<String>> {
    let node = fields.take("sender_domains")?;
    let list = node.at;
    let before = faults.len();
    let mut domains = Vec::new();
    node.each(MAX_DOMAINS, format_args!("at most {MAX_DOMAINS} domains are allowed"), faults, |node, faults| {
        let at = node.at;
        let Some(domain) = node.string(faults) else { return };
        // A valid domain forms a valid address.
        match format!("postmaster@{domain}").parse::<Address>() {
            Ok(address) if !domain.contains('@') => domains.push(address.domain().to_owned()),
            _ => at.fault(faults, Code::InvalidValue, "must be a domain name such as example.com"),
        }
    });
    if domains.is_empty() && faults.len() == before {
        list.fault(faults, Code::Required, "must have at least one domain; leave the field out to allow any");
    }
    Some(domains)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::accept::request::Limits;

    fn read(body: &str) -> Result<KeyRequest, Vec<(String, &'static str)>> {
        let limits = Limits::default();
        parse(body.as_bytes(), &Context::new(DateTime::UNIX_EPOCH, &limits, &[])).map_err(|rejection| match rejection {
            Rejection::Invalid(faults) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
            _ => Vec::new(),
        })
    }

    #[test]
    fn a_key_without_scopes_may_send_and_read() {
        let key = read(r#"{"name": "shop"}"#).expect("valid");
        assert_eq!((key.scopes, key.sender_domains), (vec![Scope::Send, Scope::Read], None));
    }

    #[test]
    fn domains_are_converted_to_a_labels() {
        let key = read(r#"{"name": "shop", "scopes": ["send"], "sender_domains": ["Bücher.example"]}"#).expect("valid");
        assert_eq!(key.sender_domains, Some(vec!["xn--bcher-kva.example".to_owned()]));
    }

    #[test]
    fn every_fault_is_reported() {
        let faults = read(
            r#"{"scopes": ["send", "fly"], "sender_domains": ["a@b"], "expires_at": "1969-01-01T00:00:00Z", "x": 1}"#,
        );
        let faults = faults.expect_err("not valid");
        for expected in [
            ("/x", "unknown_field"),
            ("/name", "required"),
            ("/scopes/1", "invalid_value"),
            ("/sender_domains/0", "invalid_value"),
            ("/expires_at", "invalid_timestamp"),
        ] {
            assert!(faults.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {faults:?}");
        }
    }
}
