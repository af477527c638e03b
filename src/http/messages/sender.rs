//! What is to be said of a sender's domain when a message is taken: by what its checks have shown, without asking the
//! DNS.

use serde::Serialize;

use crate::db::domains::cache::{Sender, SenderStatus};
use crate::domain::dkim::{Algorithm, Signer};
use crate::domain::dns_records::{DmarcPolicy, Strict, is_aligned};
use crate::domain::fault::{Code, Fault};
use crate::domain::id::TenantId;
use crate::domain::message::NewMessage;
use crate::domain::unsubscribe;
use crate::http::{Api, ApiError, Domains};

/// Something that does not keep a message from being taken, and is hardly what was meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = MessageWarning)]
pub struct Warning {
    /// Stable, machine-readable word: `domain_not_registered`, `domain_not_verified`, `not_signed`, `dmarc_fails`,
    /// `dmarc_strict_alignment`, `return_path_not_aligned`, `unsubscribe_needs_one_recipient`; in a dry run also `not_configured`.
    #[schema(example = "domain_not_verified")]
    pub code: &'static str,
    /// What is wrong and what would mend it.
    pub message: String,
}

impl Warning {
    /// Of a message that goes without the link to unsubscribe by that its stream asks for.
    pub(super) fn needs_one_recipient(message: &NewMessage) -> Self {
        let message = format!(
            "Stream {} asks for List-Unsubscribe, whose link is for one recipient. This message has {}, and goes without: send \
             one to each.",
            message.stream,
            message.recipients.len()
        );
        Self { code: "unsubscribe_needs_one_recipient", message }
    }
}

/// Whether a message goes without a link to unsubscribe by even where its stream asks for one.
pub(super) fn lacks_a_link(message: &NewMessage) -> bool {
    message.recipients.len() > 1 && !unsubscribe::is_in(&message.content.headers)
}

/// A DKIM signature that a message would get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PlannedSignature {
    /// The domain that signs (`d=`).
    #[schema(example = "acme.test")]
    pub domain: String,
    /// The key's selector (`s=`).
    #[schema(example = "pr-k7xq2m9a-rsa")]
    pub selector: String,
    /// What it signs with.
    pub algorithm: Algorithm,
}

impl PlannedSignature {
    /// Those of a signer.
    pub(super) fn of(signer: &Signer) -> Vec<Self> {
        let one = |key: &std::sync::Arc<crate::domain::dkim::SigningKey>| Self {
            domain: signer.domain.clone(),
            selector: key.selector.clone(),
            algorithm: key.algorithm,
        };
        signer.keys.iter().map(one).collect()
    }
}

/// How the sender's domain stands, and what that means for its mail. Refuses where the configuration does.
pub(super) async fn admit(api: &Api, tenant: TenantId, domain: &str) -> Result<(SenderStatus, Vec<Warning>), ApiError> {
    let standing = api.domains.senders.get(tenant, domain).await?;
    let is_good = matches!(&standing, SenderStatus::Known(sender) if sender.status.is_good());
    if api.domains.refuses_unverified && !is_good {
        let message = match &standing {
            SenderStatus::Known(sender) => {
                format!("{0} is not verified: POST /v1/domains/{0}/verify says why", sender.domain)
            }
            _ => format!("{domain} is not registered: POST /v1/domains first"),
        };
        let fault = Fault { pointer: "/from".into(), code: Code::UnverifiedDomain.as_str(), message };
        return Err(ApiError::Invalid(vec![fault]));
    }
    let warnings = warnings(&api.domains, domain, &standing);
    Ok((standing, warnings))
}

/// Nothing where no domain is registered at all: then nothing is known, and nobody has asked to be told.
fn warnings(domains: &Domains, domain: &str, standing: &SenderStatus) -> Vec<Warning> {
    match standing {
        SenderStatus::Unasked => Vec::new(),
        SenderStatus::Stranger => {
            let message = format!("{domain} is not registered, so its mail is not signed: POST /v1/domains.");
            vec![Warning { code: "domain_not_registered", message }]
        }
        SenderStatus::Known(sender) => of_known(domains, sender, domain),
    }
}

/// `from` is the sender's domain itself, which may lie below the one that is registered.
fn of_known(domains: &Domains, sender: &Sender, from: &str) -> Vec<Warning> {
    let domain = &sender.domain;
    let mut warnings = Vec::new();
    let mut warn = |code, message| warnings.push(Warning { code, message });
    let is_verified = sender.status.is_good();
    if !is_verified {
        let message = format!(
            "The DKIM records of {domain} were not seen in the DNS, so receivers cannot verify its mail: POST \
             /v1/domains/{domain}/verify says what is missing."
        );
        warn("domain_not_verified", message);
    }
    let signs = match &sender.signer {
        Ok(Some(_)) => true,
        Ok(None) => {
            warn("not_signed", format!("No key of {domain} signs its mail: dkim.algorithms leaves them out."));
            false
        }
        Err(error) => {
            warn(
                "not_signed",
                format!("The keys of {domain} cannot be opened ({error}); its mail waits until they can."),
            );
            false
        }
    };
    if let Some(policy @ (DmarcPolicy::Quarantine | DmarcPolicy::Reject)) = sender.dmarc
        && !(signs && is_verified)
    {
        let message =
            format!("{domain} has the DMARC policy p={policy}, and its mail has no DKIM signature that verifies.");
        warn("dmarc_fails", message);
    }
    if sender.strict.dkim && from != domain && sender.dmarc.is_some() {
        let message = format!(
            "{from} is signed with d={domain}, and the DMARC record of {domain} says adkim=s: the signature does not count. POST \
             /v1/domains for {from}, or publish a DMARC record at _dmarc.{from}."
        );
        warn("dmarc_strict_alignment", message);
    }
    if let Some(return_path) = &domains.terms.return_path
        && !is_aligned(from, return_path, sender.strict)
    {
        let why = if is_aligned(from, return_path, Strict::default()) {
            format!("and the DMARC record of {domain} says aspf=s")
        } else {
            format!("which has no domain in common with {from}")
        };
        let message = format!("Bounces go to {return_path}, {why}: SPF does not count for DMARC, DKIM alone does.");
        warn("return_path_not_aligned", message);
    }
    warnings
}
