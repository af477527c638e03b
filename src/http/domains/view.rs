//! A domain as the API shows it.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::db::domains::{DomainRow, KeyRow};
use crate::domain::dkim::{Algorithm, KeyState};
use crate::domain::dns_records::{self, DmarcPolicy, DomainStatus, Finding, PublishedKey, Terms};

/// A domain that mail is sent from: the keys that sign it, the records to publish, and what the DNS showed of them.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = Domain)]
pub struct DomainView {
    /// Its name, in A-labels.
    #[schema(example = "acme.test")]
    pub name: String,
    /// How it stands after its checks: `pending` (its keys were never seen in the DNS), `verified`, `failing` (they
    /// were seen less than 72 hours before the last check: it counts as verified) or `unverified`.
    pub status: DomainStatus,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// When the DNS last said whether its keys are published.
    pub checked_at: Option<DateTime<Utc>>,
    /// When it last showed them all.
    pub verified_at: Option<DateTime<Utc>>,
    /// The DMARC policy that was last found to apply; null where there is none or nobody has asked.
    pub dmarc: Option<DmarcPolicy>,
    /// Its keys, those that sign first.
    pub keys: Vec<DkimKeyView>,
    /// The records to publish, with what was last found of each.
    pub records: Vec<Finding>,
}

/// A key of a domain.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[schema(as = DkimKey)]
pub struct DkimKeyView {
    /// Where its record is: `selector._domainkey.domain`.
    #[schema(example = "pr-k7xq2m9a-rsa")]
    pub selector: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// `pending` signs once its record is seen, `active` signs (unless `dkim.algorithms` leaves its algorithm out),
    /// `retiring` signs no more while its record is to stay for mail that is under way.
    pub state: KeyState,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// Until when its record is to stay, where it signs no more. Then it is gone from this list.
    pub retire_at: Option<DateTime<Utc>>,
}

/// A new domain.
#[derive(Debug, Serialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDomainBody {
    /// The domain, without a top-level one alone. Mail from domains below it is signed for it, too.
    #[schema(example = "acme.test", max_length = 200)]
    pub name: String,
}

impl DomainView {
    pub(super) fn of(row: DomainRow, keys: Vec<KeyRow>, terms: &Terms) -> Self {
        let published: Vec<PublishedKey> = keys.iter().filter_map(KeyRow::published).collect();
        // What another version has stored is as good as nothing: the next check stores it anew.
        let findings: Vec<Finding> = serde_json::from_value(row.findings).unwrap_or_default();
        let records = dns_records::records(terms, &row.name, &published);
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
            dmarc: row.dmarc.and_then(|word| word.parse().ok()),
        }
    }
}
