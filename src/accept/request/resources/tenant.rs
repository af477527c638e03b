//! Parses the bodies of `POST /v1/tenants` and `PATCH /v1/tenants/{id}`.

use super::key::{quota, rate};
use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::{Rejection, json};
use crate::domain::api::fault::{Code, Faults};
use crate::domain::limits::PRIORITY;
use crate::domain::tenant::{DEFAULT_WEIGHT, NAME, NewTenant, TenantChange, WEIGHT, check_name};

/// The fields of both bodies.
const FIELDS: &[&str] = &["name", "weight", "min_priority", "rate", "quota"];

/// Parses a tenant to create.
pub fn parse(body: &[u8]) -> Result<NewTenant, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let tenant = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| NewTenant {
        name: fields.require("name", &mut faults).and_then(|node| name(node, &mut faults)).unwrap_or_default(),
        weight: fields.take("weight").and_then(|node| node.whole(WEIGHT, &mut faults)).unwrap_or(DEFAULT_WEIGHT),
        min_priority: fields.take("min_priority").and_then(|node| node.whole(PRIORITY, &mut faults)),
        rate: fields.take("rate").and_then(|node| rate(node, &mut faults)),
        quota: fields.take("quota").and_then(|node| quota(node, &mut faults)),
    });
    match tenant {
        Some(tenant) if faults.is_empty() => Ok(tenant),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Parses changes to a tenant: `null` removes a limit, a missing field keeps the value.
pub fn parse_change(body: &[u8]) -> Result<TenantChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let change = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| {
        fields.not_null("name", &mut faults);
        fields.not_null("weight", &mut faults);
        TenantChange {
            name: fields.take("name").and_then(|node| name(node, &mut faults)),
            weight: fields.take("weight").and_then(|node| node.whole(WEIGHT, &mut faults)),
            min_priority: fields.change("min_priority", |node| node.whole(PRIORITY, &mut faults)),
            rate: fields.change("rate", |node| rate(node, &mut faults)),
            quota: fields.change("quota", |node| quota(node, &mut faults)),
        }
    });
    match change {
        Some(change) if faults.is_empty() => Ok(change),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn name(node: Node<'_, '_>, faults: &mut Faults) -> Option<String> {
    let at = node.at;
    let name = node.line(NAME, faults)?.into_owned();
    if let Err(message) = check_name(&name) {
        at.fault(faults, Code::InvalidValue, message);
        return None;
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::key::{KeyQuota, KeyRate};
    use crate::domain::limits::Change;

    fn faults<T>(result: Result<T, Rejection>) -> Vec<(String, &'static str)> {
        match result {
            Err(Rejection::Invalid(faults)) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn tenant_needs_only_a_name() {
        let tenant = parse(br#"{"name": "Acme"}"#).unwrap();
        assert_eq!(tenant, NewTenant { name: "Acme".into(), weight: 100, min_priority: None, rate: None, quota: None });
        let limits = br#"{"name": "Acme", "weight": 1000, "min_priority": 50, "rate": {"requests_per_second": 5},
                          "quota": {"recipients_per_day": 10}}"#;
        let tenant = parse(limits).unwrap();
        assert_eq!((tenant.weight, tenant.min_priority), (1_000, Some(50)));
        assert_eq!(tenant.rate, Some(KeyRate { requests_per_second: 5, burst: 5 }));
        assert_eq!(tenant.quota, Some(KeyQuota { recipients_per_day: 10 }));
    }

    #[test]
    fn all_faults_are_reported() {
        let body = br#"{"name": "ten_a", "weight": 0, "min_priority": 101, "rate": {"burst": 1}, "quotas": {}}"#;
        let expected = [
            ("/quotas", "unknown_field"),
            ("/name", "invalid_value"),
            ("/weight", "invalid_value"),
            ("/min_priority", "invalid_value"),
            ("/rate/requests_per_second", "required"),
        ];
        assert_eq!(faults(parse(body)), expected.map(|(pointer, code)| (pointer.to_owned(), code)));
        assert_eq!(faults(parse(b"{}")), [("/name".to_owned(), "required")]);
        let nulls = [("/name".to_owned(), "invalid_type"), ("/weight".to_owned(), "invalid_type")];
        assert_eq!(faults(parse_change(br#"{"name": null, "weight": null}"#)), nulls);
    }

    #[test]
    fn missing_fields_keep_their_values_and_null_removes_limits() {
        assert_eq!(parse_change(b"{}").unwrap(), TenantChange::default());
        let change = parse_change(br#"{"rate": null, "weight": 7, "min_priority": null}"#).unwrap();
        assert_eq!((change.rate, change.quota, change.weight), (Change::Clear, Change::Keep, Some(7)));
        assert_eq!(change.min_priority, Change::Clear);
    }
}
