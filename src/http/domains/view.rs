//! Domains in API responses.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::domains::{DomainRow, KeyRow};
use crate::domain::sender_domain::dkim::{Algorithm, KeyState};
use crate::domain::sender_domain::dns_records::{self, DmarcPolicy, DnsSettings, DomainStatus, Finding, PublishedKey};

/// A sender domain: its DKIM keys, the DNS records to publish, and the results of the last check.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Domain)]
pub struct DomainView {
    /// The domain's name, in A-labels.
    #[schema(example = "acme.test")]
    pub name: String,
    /// The result of the checks: `pending` (its keys were never found in the DNS), `verified`, `failing` (its keys are
    /// missing, but were found less than 72 hours before the last check; it counts as verified) or `unverified` (they
    /// have been missing for longer).
    pub status: DomainStatus,
    /// When the domain was registered.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// When the DNS last returned a definite result for the domain's keys; null if it never has.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub checked_at: Option<DateTime<Utc>>,
    /// When all of the domain's keys were last found in the DNS; null if they never were.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub verified_at: Option<DateTime<Utc>>,
    /// The DMARC policy found by the last check; null if there is none or the domain has not been checked.
    pub dmarc: Option<DmarcPolicy>,
    /// The domain's DKIM keys, signing keys first.
    pub keys: Vec<DkimKeyView>,
    /// The DNS records to publish, each with the result of the last check.
    pub records: Vec<Finding>,
}

/// A DKIM key of a domain.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DkimKey)]
pub struct DkimKeyView {
    /// The DKIM selector; the record is at `selector._domainkey.domain`.
    #[schema(example = "pr-k7xq2m9a-rsa")]
    pub selector: String,
    /// The signature algorithm.
    pub algorithm: Algorithm,
    /// `pending`: signs once its record is found. `active`: signs, unless `dkim.algorithms` excludes its algorithm.
    /// `retiring`: no longer signs; keep its record published for messages that are still in transit.
    pub state: KeyState,
    /// When the key was created.
    #[schema(example = "2026-11-23T12:00:00Z")]
    pub created_at: DateTime<Utc>,
    /// The time until which the record of a `retiring` key must stay published. The key is then removed from this list.
    /// Null for other keys.
    #[schema(example = "2026-12-01T09:00:00Z")]
    pub retire_at: Option<DateTime<Utc>>,
}

/// A domain to register.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDomainBody {
    /// The domain's name; a top-level domain is not allowed. Messages from its subdomains are signed with its keys too.
    #[schema(example = "acme.test", max_length = 200)]
    pub name: String,
}

impl DomainView {
    pub(in crate::http) fn from_row(row: DomainRow, keys: Vec<KeyRow>, dns_settings: &DnsSettings) -> Self {
        let published: Vec<PublishedKey> = keys.iter().filter_map(KeyRow::published).collect();
        // Ignores findings that this version cannot parse; the next check replaces them.
        let findings: Vec<Finding> = serde_json::from_value(row.findings).unwrap_or_default();
        let records = dns_records::records(dns_settings, &row.name, &published);
        let keys = keys.into_iter().zip(&published).map(|(row, key)| DkimKeyView {
            selector: row.selector,
            algorithm: key.algorithm,
            state: key.state,
            created_at: row.created_at,
            retire_at: row.retire_at,
        });
        Self {
            keys: keys.collect(),
            records: dns_records::with_findings(records, &findings),
            status: DomainStatus::from_checks(row.checked_at, row.verified_at),
            name: row.name,
            created_at: row.created_at,
            checked_at: row.checked_at,
            verified_at: row.verified_at,
            dmarc: row.dmarc.and_then(|policy| policy.parse().ok()),
        }
    }
}
