//! Checks of the sender's domain when a message is accepted, based on the domain's last verification, without DNS
//! queries.

use serde::Serialize;

use crate::db::domains::cache::{Sender, SenderStatus};
use crate::domain::api::fault::{Code, Fault};
use crate::domain::id::TenantId;
pub use crate::domain::message::Warning;
use crate::domain::message::{NewMessage, unsubscribe};
use crate::domain::sender_domain::dkim::{Algorithm, Signer};
use crate::domain::sender_domain::dns_records::{DmarcPolicy, Strict, is_aligned};
use crate::http::{Api, ApiError, Domains};

impl Warning {
    /// Creates the warning for a message that is sent without the unsubscribe link that its stream adds.
    pub(super) fn needs_one_recipient(message: &NewMessage) -> Self {
        let message = format!(
            "Stream {} adds `List-Unsubscribe`, which needs a single recipient. This message has {}, and is sent without \
             it. Send one message to each recipient.",
            message.stream,
            message.recipients.len()
        );
        Self { code: "unsubscribe_needs_one_recipient", message }
    }
}

/// Returns whether a message gets no unsubscribe link even if its stream adds them, because it has several recipients
/// and no link of its own.
pub(super) fn has_no_unsubscribe_link(message: &NewMessage) -> bool {
    message.recipients.len() > 1 && !unsubscribe::has_link(&message.content.headers)
}

/// A DKIM signature that would be added to a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PlannedSignature {
    /// The signing domain (`d=`).
    #[schema(example = "acme.test")]
    pub domain: String,
    /// The key's selector (`s=`).
    #[schema(example = "pr-k7xq2m9a-rsa")]
    pub selector: String,
    /// The signature algorithm.
    pub algorithm: Algorithm,
}

impl PlannedSignature {
    /// Returns the signatures of a signer.
    pub(super) fn from_signer(signer: &Signer) -> Vec<Self> {
        let signature = |key: &std::sync::Arc<crate::domain::sender_domain::dkim::SigningKey>| Self {
            domain: signer.domain.clone(),
            selector: key.selector.clone(),
            algorithm: key.algorithm,
        };
        signer.keys.iter().map(signature).collect()
    }
}

/// Returns the sender domain's state and warnings about it. Fails if the configuration refuses unverified domains.
pub(super) async fn admit(api: &Api, tenant: TenantId, domain: &str) -> Result<(SenderStatus, Vec<Warning>), ApiError> {
    let (sender_status, warnings) = check(api, tenant, domain).await?;
    let invalid = |message| {
        let fault = Fault { pointer: "/from".into(), code: Code::UnverifiedDomain.as_str(), message };
        ApiError::Invalid(vec![fault])
    };
    Ok((sender_status, warnings.map_err(invalid)?))
}

/// Returns the sender domain's state, and warnings about it or the reason why messages from it are refused.
pub(super) async fn check(
    api: &Api,
    tenant: TenantId,
    domain: &str,
) -> Result<(SenderStatus, Result<Vec<Warning>, String>), ApiError> {
    let sender_status = api.domains.senders.get(tenant, domain).await?;
    let is_verified = matches!(&sender_status, SenderStatus::Registered(sender) if sender.status.counts_as_verified());
    if api.domains.refuses_unverified && !is_verified {
        let reason = match &sender_status {
            SenderStatus::Registered(sender) => {
                format!("{0} is not verified; POST /v1/domains/{0}/verify returns the reason", sender.domain)
            }
            _ => format!("{domain} is not registered; register it with POST /v1/domains"),
        };
        return Ok((sender_status, Err(reason)));
    }
    let warnings = warnings(&api.domains, domain, &sender_status);
    Ok((sender_status, Ok(warnings)))
}

/// Returns warnings about the sender's domain; none if the tenant has not registered any domain.
fn warnings(domains: &Domains, domain: &str, sender_status: &SenderStatus) -> Vec<Warning> {
    match sender_status {
        SenderStatus::NoDomains => Vec::new(),
        SenderStatus::Unregistered => {
            let message = format!(
                "{domain} is not registered, so its messages are not signed. Register it with POST /v1/domains."
            );
            vec![Warning { code: "domain_not_registered", message }]
        }
        SenderStatus::Registered(sender) => domain_warnings(domains, sender, domain),
    }
}

/// Returns warnings about a registered domain. `from` is the sender's domain, which may be a subdomain of it.
fn domain_warnings(domains: &Domains, sender: &Sender, from: &str) -> Vec<Warning> {
    let domain = &sender.domain;
    let mut warnings = Vec::new();
    let mut warn = |code, message| warnings.push(Warning { code, message });
    let is_verified = sender.status.counts_as_verified();
    if !is_verified {
        let message = format!(
            "The DKIM records of {domain} were not found in the DNS, so receivers cannot verify its messages. POST \
             /v1/domains/{domain}/verify lists the missing records."
        );
        warn("domain_not_verified", message);
    }
    let signs = match &sender.signer {
        Ok(Some(_)) => true,
        Ok(None) => {
            warn("not_signed", format!("No key of {domain} signs: `dkim.algorithms` excludes their algorithms."));
            false
        }
        Err(error) => {
            warn(
                "not_signed",
                format!("The keys of {domain} cannot be decrypted ({error}); its messages wait until this is fixed."),
            );
            false
        }
    };
    if let Some(policy @ (DmarcPolicy::Quarantine | DmarcPolicy::Reject)) = sender.dmarc
        && !(signs && is_verified)
    {
        let message =
            format!("{domain} has the DMARC policy p={policy}, and its messages have no DKIM signature that verifies.");
        warn("dmarc_fails", message);
    }
    if sender.strict.dkim && from != domain && sender.dmarc.is_some() {
        let message = format!(
            "{from} is signed with d={domain}, and the DMARC record of {domain} has adkim=s, so the signature does not \
             count. Register {from} with POST /v1/domains, or publish a DMARC record at _dmarc.{from}."
        );
        warn("dmarc_strict_alignment", message);
    }
    if let Some(return_path) = &domains.dns_settings.return_path
        && !is_aligned(from, return_path, sender.strict)
    {
        let why = if is_aligned(from, return_path, Strict::default()) {
            format!("and the DMARC record of {domain} has aspf=s")
        } else {
            format!("which has no domain in common with {from}")
        };
        let message = format!("The return path is at {return_path}, {why}: only DKIM counts for DMARC, SPF does not.");
        warn("return_path_not_aligned", message);
    }
    warnings
}
