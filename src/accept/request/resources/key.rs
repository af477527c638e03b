//! Parses the bodies of `POST /v1/keys` and `PATCH /v1/keys/{id}`.

use chrono::{DateTime, Utc};

use crate::accept::request::json::fields::Fields;
use crate::accept::request::json::pointer::Pointer;
use crate::accept::request::json::walk::Node;
use crate::accept::request::message::schedule;
use crate::accept::request::{Context, Rejection, json};
use crate::db::keys::KeyChange;
use crate::domain::address::Address;
use crate::domain::api::fault::{Code, Faults};
use crate::domain::id::TenantId;
use crate::domain::key::{BURST, KeyMode, KeyQuota, KeyRate, RECIPIENTS_PER_DAY, REQUESTS_PER_SECOND, Scope};
use crate::domain::network::parse_network;

/// The fields of a new key.
const FIELDS: &[&str] =
    &["name", "tenant", "mode", "scopes", "sender_domains", "allowed_ips", "rate", "quota", "expires_at"];
/// The fields that may be changed.
const CHANGES: &[&str] = &["name", "allowed_ips", "rate", "quota", "expires_at"];
/// Maximum number of sender domains of one key.
const MAX_DOMAINS: usize = 100;
/// Maximum number of networks of one key.
const MAX_NETWORKS: usize = 100;

/// The requested key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRequest {
    /// The key's name, 1–128 characters.
    pub name: String,
    /// The key's tenant, which is a live one; `None` means that of the caller.
    pub tenant: Option<TenantId>,
    /// The key's scopes, at least one.
    pub scopes: Vec<Scope>,
    /// The domains that the key may send from, as A-labels; `None` means any.
    pub sender_domains: Option<Vec<String>>,
    /// Whether the messages of the key are sent or only simulated.
    pub mode: KeyMode,
    /// The networks that the key may be used from, in canonical form; `None` means any.
    pub allowed_ips: Option<Vec<String>>,
    /// The rate limit.
    pub rate: Option<KeyRate>,
    /// The quota.
    pub quota: Option<KeyQuota>,
    /// When the key expires, later than now; `None` means never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// The fault of the id of no tenant.
pub const UNKNOWN_TENANT: &str = "there is no tenant with this id";
/// Why a test key has no quota.
pub const NO_QUOTA: &str = "test messages do not count against a quota; leave the field out";

/// Parses the body. Without `scopes`, the key gets `send` and `read`.
pub fn parse(body: &[u8], context: &Context<'_>) -> Result<KeyRequest, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let request = Fields::open(value, &at, FIELDS, &mut faults).map(|mut fields| KeyRequest {
        name: name(&mut fields, &mut faults).unwrap_or_default(),
        tenant: fields.take("tenant").and_then(|node| tenant(node, &mut faults)),
        scopes: scopes(&mut fields, &mut faults),
        sender_domains: sender_domains(&mut fields, &mut faults),
        mode: mode(&mut fields, &mut faults),
        allowed_ips: fields.take("allowed_ips").map(|node| networks(node, &mut faults)),
        rate: fields.take("rate").and_then(|node| rate(node, &mut faults)),
        quota: fields.take("quota").and_then(|node| quota(node, &mut faults)),
        expires_at: schedule::expires_at(fields.take("expires_at"), None, context, &mut faults),
    });
    if let Some(request) = &request {
        check_combinations(request, &mut faults);
    }
    match request {
        Some(request) if faults.is_empty() => Ok(request),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

/// Reports fields that exclude each other.
fn check_combinations(request: &KeyRequest, faults: &mut Faults) {
    let mut fault = |field: &'static str, message: &str| {
        Pointer::Field(&Pointer::Root, field).fault(faults, Code::InvalidValue, message);
    };
    let KeyRequest { scopes, mode, .. } = request;
    if request.sender_domains.is_some() && scopes.contains(&Scope::Admin) {
        let message = "the scope `admin` includes all data of the tenant: leave out `sender_domains` or `admin`";
        fault("sender_domains", message);
    }
    if request.sender_domains.is_some() && scopes.contains(&Scope::Operator) {
        let message = "the scope `operator` includes all tenants: leave out `sender_domains` or `operator`";
        fault("sender_domains", message);
    }
    if *mode == KeyMode::Test && scopes.contains(&Scope::Operator) {
        fault("scopes", "a test key cannot manage tenants: leave out `operator`, or use the mode `live`");
    }
    if *mode == KeyMode::Test && request.quota.is_some() {
        fault("quota", NO_QUOTA);
    }
}

/// Parses changes to a key: `null` removes a limit or the expiry, a missing field keeps the value.
pub fn parse_change(body: &[u8], context: &Context<'_>) -> Result<KeyChange, Rejection> {
    let value = json::read(body, json::MAX_VALUES)?;
    let mut faults = Faults::default();
    let at = Pointer::Root;
    let change = Fields::open(value, &at, CHANGES, &mut faults).map(|mut fields| {
        fields.not_null("name", &mut faults);
        KeyChange {
            name: fields
                .take("name")
                .and_then(|node| node.line(1..=128, &mut faults).map(std::borrow::Cow::into_owned)),
            allowed_ips: fields.change("allowed_ips", |node| Some(networks(node, &mut faults))),
            rate: fields.change("rate", |node| rate(node, &mut faults)),
            quota: fields.change("quota", |node| quota(node, &mut faults)),
            expires_at: fields
                .change("expires_at", |node| schedule::expires_at(Some(node), None, context, &mut faults)),
        }
    });
    match change {
        Some(change) if faults.is_empty() => Ok(change),
        _ => Err(Rejection::Invalid(faults.into_vec())),
    }
}

fn mode(fields: &mut Fields<'_, '_>, faults: &mut Faults) -> KeyMode {
    let Some(node) = fields.take("mode") else { return KeyMode::default() };
    let at = node.at;
    match node.string(faults).map(|name| name.parse::<KeyMode>()) {
        Some(Ok(mode)) => mode,
        Some(Err(message)) => {
            at.fault(faults, Code::InvalidValue, message);
            KeyMode::default()
        }
        None => KeyMode::default(),
    }
}

fn networks(node: Node<'_, '_>, faults: &mut Faults) -> Vec<String> {
    let list = node.at;
    let before = faults.len();
    let mut networks = Vec::new();
    node.each(MAX_NETWORKS, format_args!("at most {MAX_NETWORKS} networks are allowed"), faults, |node, faults| {
        let at = node.at;
        let Some(text) = node.string(faults) else { return };
        match parse_network(&text).map(|network| network.to_string()) {
            Ok(network) if networks.contains(&network) => {}
            Ok(network) => networks.push(network),
            Err(error) => at.fault(faults, Code::InvalidValue, error),
        }
    });
    if networks.is_empty() && faults.len() == before {
        list.fault(faults, Code::Required, "must have at least one network, or be null to allow any");
    }
    networks
}

fn tenant(node: Node<'_, '_>, faults: &mut Faults) -> Option<TenantId> {
    let at = node.at;
    match node.string(faults)?.parse::<TenantId>() {
        Ok(id) if !id.is_test() => return Some(id),
        Ok(_) => at.fault(faults, Code::UnknownTenant, UNKNOWN_TENANT),
        Err(error) => at.fault(faults, Code::InvalidValue, error),
    }
    None
}

pub(super) fn rate(node: Node<'_, '_>, faults: &mut Faults) -> Option<KeyRate> {
    let (value, at) = (node.value, node.at);
    let mut fields = Fields::open(value, &at, &["requests_per_second", "burst"], faults)?;
    let requests_per_second = fields.require("requests_per_second", faults);
    let requests_per_second = requests_per_second.and_then(|node| node.whole(REQUESTS_PER_SECOND, faults));
    let before = faults.len();
    let burst = fields.take("burst").and_then(|node| node.whole(BURST, faults));
    let (requests_per_second, burst) = (requests_per_second?, burst.or(requests_per_second)?);
    if burst < requests_per_second && faults.len() == before {
        let message = format_args!("must be at least `requests_per_second`, which is {requests_per_second}");
        Pointer::Field(&at, "burst").fault(faults, Code::InvalidValue, message);
    }
    Some(KeyRate { requests_per_second, burst })
}

pub(super) fn quota(node: Node<'_, '_>, faults: &mut Faults) -> Option<KeyQuota> {
    let (value, at) = (node.value, node.at);
    let mut fields = Fields::open(value, &at, &["recipients_per_day"], faults)?;
    let recipients_per_day = fields.require("recipients_per_day", faults)?.whole(RECIPIENTS_PER_DAY, faults)?;
    Some(KeyQuota { recipients_per_day })
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
        at.fault(faults, Code::Required, "use at least one of `send`, `read`, `metadata`, `admin` and `operator`");
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
    use crate::domain::limits::Change;

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
    fn networks_and_limits_are_normalised() {
        let key = read(
            r#"{"name": "shop", "allowed_ips": ["192.0.2.7/24", "::ffff:192.0.2.0/120", "2001:db8::1"], "mode": "live",
                "rate": {"requests_per_second": 10}, "quota": {"recipients_per_day": 100}}"#,
        );
        let key = key.expect("valid");
        assert_eq!(key.allowed_ips, Some(vec!["192.0.2.0/24".to_owned(), "2001:db8::1/128".to_owned()]));
        assert_eq!(key.rate, Some(KeyRate { requests_per_second: 10, burst: 10 }));
        assert_eq!((key.quota, key.mode), (Some(KeyQuota { recipients_per_day: 100 }), KeyMode::Live));
    }

    #[test]
    fn test_key_has_a_rate_and_no_quota() {
        let key = read(r#"{"name": "ci", "mode": "test", "rate": {"requests_per_second": 10}}"#).expect("valid");
        assert_eq!((key.mode, key.quota), (KeyMode::Test, None));
        let faults = read(r#"{"name": "ci", "mode": "test", "quota": {"recipients_per_day": 5}}"#);
        assert_eq!(faults.expect_err("not valid"), [("/quota".to_owned(), "invalid_value")]);
    }

    #[test]
    fn test_key_is_no_operators_and_belongs_to_a_live_tenant() {
        let faults = read(r#"{"name": "ci", "mode": "test", "scopes": ["send", "operator"]}"#);
        assert_eq!(faults.expect_err("not valid"), [("/scopes".to_owned(), "invalid_value")]);
        let of = |tenant: TenantId| read(&format!(r#"{{"name": "ci", "mode": "test", "tenant": "{tenant}"}}"#));
        assert_eq!(of(TenantId::DEFAULT).expect("valid").tenant, Some(TenantId::DEFAULT));
        let faults = of(TenantId::DEFAULT.test()).expect_err("not valid");
        assert_eq!(faults, [("/tenant".to_owned(), "unknown_tenant")]);
    }

    #[test]
    fn every_faulty_limit_is_reported() {
        let faults = read(
            r#"{"name": "shop", "mode": "demo", "allowed_ips": ["192.0.2.0/24", "x", 1],
                "rate": {"requests_per_second": 10, "burst": 9}, "quota": {"recipients_per_day": 0, "per_month": 1}}"#,
        );
        let faults = faults.expect_err("not valid");
        for expected in [
            ("/mode", "invalid_value"),
            ("/allowed_ips/1", "invalid_value"),
            ("/allowed_ips/2", "invalid_type"),
            ("/rate/burst", "invalid_value"),
            ("/quota/recipients_per_day", "invalid_value"),
            ("/quota/per_month", "unknown_field"),
        ] {
            assert!(faults.contains(&(expected.0.to_owned(), expected.1)), "{expected:?} in {faults:?}");
        }
        let empty = read(r#"{"name": "shop", "allowed_ips": [], "rate": {}, "quota": 5}"#).expect_err("not valid");
        let expected =
            [("/allowed_ips", "required"), ("/rate/requests_per_second", "required"), ("/quota", "invalid_type")];
        assert_eq!(empty, expected.map(|(pointer, code)| (pointer.to_owned(), code)));
    }

    #[test]
    fn null_removes_a_limit_and_a_missing_field_keeps_it() {
        let limits = Limits::default();
        let change = |body: &str| {
            let change = parse_change(body.as_bytes(), &Context::new(DateTime::UNIX_EPOCH, &limits, &[]));
            change.map_err(|rejection| match rejection {
                Rejection::Invalid(faults) => faults.into_iter().map(|fault| (fault.pointer, fault.code)).collect(),
                _ => Vec::new(),
            })
        };
        let changed = change(r#"{"rate": null, "quota": {"recipients_per_day": 5}}"#).expect("valid");
        assert_eq!((changed.rate, changed.quota), (Change::Clear, Change::Set(KeyQuota { recipients_per_day: 5 })));
        assert_eq!((changed.allowed_ips, changed.name), (Change::Keep, None));
        let refused = change(r#"{"name": null, "scopes": ["read"]}"#).expect_err("not valid");
        assert_eq!(
            refused,
            [("/scopes", "unknown_field"), ("/name", "invalid_type")].map(|(at, code)| (at.to_owned(), code))
        );
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
