//! Authenticates received messages: SPF (RFC 7208), DKIM (RFC 6376), DMARC (RFC 9989) and ARC (RFC 8617).
//!
//! The verdicts describe a message; only DMARC with the policy `reject` can refuse one, if the configuration says so. All look-ups
//! together have a time limit; what is unknown by then is `temperror`. A message with so many signatures that checking them would
//! take long is not checked: its verdicts are `permerror`. Where DMARC can refuse messages, it is refused, because otherwise a forger
//! would add signatures.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use mail_auth::dmarc::Policy;
use mail_auth::dmarc::verify::DmarcParameters;
use mail_auth::spf::verify::SpfParameters;
use mail_auth::{
    ArcOutput, AuthenticatedMessage, DkimOutput, DkimResult, DmarcOutput, DmarcResult, MessageAuthenticator, SpfOutput,
    SpfResult,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// Time limit of all look-ups of a message.
const TIME_LIMIT: Duration = Duration::from_secs(10);
/// Maximum number of messages that are authenticated concurrently. Each waits for the DNS most of the time.
const CONCURRENCY: usize = 64;
/// Maximum number of signatures that are checked.
pub(super) const MAX_SIGNATURES: usize = 12;

/// The verdicts about a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authentication {
    /// Whether the client may send for the domain of the reverse path.
    pub spf: DomainVerdict,
    /// The signatures, in the order of the message.
    pub dkim: Vec<SignatureVerdict>,
    /// Whether SPF or DKIM confirm the domain in `From`.
    pub dmarc: DmarcVerdict,
    /// Whether the chain of servers that have authenticated the message before is intact.
    pub arc: ArcVerdict,
}

/// A verdict about a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainVerdict {
    /// `pass`, `fail`, `softfail`, `neutral`, `none`, `temperror` or `permerror`.
    pub result: String,
    /// The domain.
    pub domain: Option<String>,
}

/// A verdict about a DKIM signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureVerdict {
    /// `pass`, `fail`, `neutral`, `temperror` or `permerror`.
    pub result: String,
    /// The domain that signed.
    pub domain: Option<String>,
    /// The selector of its key.
    pub selector: Option<String>,
}

/// A verdict about the domain in `From`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DmarcVerdict {
    /// `pass`, `fail`, `none`, `temperror` or `permerror`.
    pub result: String,
    /// The domain in `From`.
    pub domain: Option<String>,
    /// What its owner asks for if it fails: `none`, `quarantine` or `reject`.
    pub policy: Option<String>,
}

/// A verdict about a chain of ARC sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArcVerdict {
    /// `pass`, `fail`, `none`, `neutral`, `temperror` or `permerror`.
    pub result: String,
}

impl Authentication {
    /// Returns whether the message fails DMARC, and the domain's owner asks to reject such messages.
    pub fn is_rejected(&self) -> bool {
        self.dmarc.result == "fail" && self.dmarc.policy.as_deref() == Some("reject")
    }

    /// Returns the verdicts of a message that cannot be checked.
    fn of_uncheckable(result: &str) -> Self {
        let result = || result.to_owned();
        Self {
            spf: DomainVerdict { result: result(), domain: None },
            dkim: vec![SignatureVerdict { result: result(), domain: None, selector: None }],
            dmarc: DmarcVerdict { result: result(), domain: None, policy: None },
            arc: ArcVerdict { result: result() },
        }
    }
}

/// The client and its envelope.
#[derive(Debug, Clone)]
pub(super) struct Client {
    /// Address of the client.
    pub address: IpAddr,
    /// Its name in EHLO or HELO.
    pub helo: String,
    /// The reverse path; empty for the null sender.
    pub from: String,
}

/// Authenticates messages.
#[derive(Clone)]
pub struct Authenticator {
    dns: Arc<MessageAuthenticator>,
    /// Name of this server.
    hostname: String,
    permits: Arc<Semaphore>,
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authenticator({})", self.hostname)
    }
}

impl Authenticator {
    /// Creates an authenticator. `hostname` is the name of this server, for macros of SPF.
    pub fn new(dns: TokioResolver, hostname: String) -> Self {
        Self { dns: Arc::new(MessageAuthenticator(dns)), hostname, permits: Arc::new(Semaphore::new(CONCURRENCY)) }
    }

    /// Authenticates a message with `signatures` signatures of DKIM and ARC. Returns it with the verdicts.
    pub(super) async fn check(&self, client: Client, data: Vec<u8>, signatures: usize) -> (Authentication, Vec<u8>) {
        if signatures > MAX_SIGNATURES {
            return (Authentication::of_uncheckable("permerror"), data);
        }
        // A sending server that waits too long sends the message again, although it is stored later.
        let Ok(_permit) = timeout(TIME_LIMIT, self.permits.acquire()).await else {
            return (Authentication::of_uncheckable("temperror"), data);
        };
        let (authenticator, runtime) = (self.clone(), tokio::runtime::Handle::current());
        let data = Arc::new(data);
        let message = data.clone();
        // Hashes a message of up to 100 MB off the async threads. A panic affects only this message.
        let check = move || runtime.block_on(authenticator.verify(&client, &message));
        let verdicts = tokio::task::spawn_blocking(check).await.unwrap_or_else(|_| {
            tracing::error!(
                event = "authentication_failed",
                "failed to authenticate a message; its verdicts are permerror"
            );
            Authentication::of_uncheckable("permerror")
        });
        // The task has ended, so there is one reference.
        (verdicts, Arc::try_unwrap(data).unwrap_or_else(|shared| shared.to_vec()))
    }

    async fn verify(&self, client: &Client, data: &[u8]) -> Authentication {
        let deadline = Instant::now() + TIME_LIMIT;
        let spf_parameters = if client.from.is_empty() {
            SpfParameters::verify_ehlo(client.address, &client.helo, &self.hostname)
        } else {
            SpfParameters::verify_mail_from(client.address, &client.helo, &self.hostname, &client.from)
        };
        let domain = client.from.rsplit_once('@').map_or(client.helo.as_str(), |(_, domain)| domain);
        let spf = timeout_at(deadline, self.dns.verify_spf(spf_parameters)).await;
        let spf = spf.unwrap_or_else(|_| SpfOutput::new(domain.to_owned()).with_result(SpfResult::TempError));
        let Some(message) = AuthenticatedMessage::parse(data) else {
            return Authentication { spf: of_spf(&spf), ..Authentication::of_uncheckable("none") };
        };
        let dkim = timeout_at(deadline, self.dns.verify_dkim(&message)).await.ok();
        let arc = timeout_at(deadline, self.dns.verify_arc(&message)).await.ok();
        let parameters = DmarcParameters {
            message: &message,
            dkim_output: dkim.as_deref().unwrap_or_default(),
            dkim2_output: None,
            rfc5321_mail_from_domain: domain,
            spf_output: &spf,
        };
        let dmarc = timeout_at(deadline, self.dns.verify_dmarc(parameters)).await.ok();
        // Without the signatures, DMARC cannot fail.
        let dmarc = dmarc.filter(|dmarc| dkim.is_some() || dmarc.result() == DmarcResult::Pass);
        let unknown = || vec![SignatureVerdict { result: "temperror".into(), domain: None, selector: None }];
        Authentication {
            spf: of_spf(&spf),
            dkim: dkim.map_or_else(unknown, |dkim| dkim.iter().map(of_signature).collect()),
            dmarc: dmarc
                .as_ref()
                .map_or_else(|| DmarcVerdict { result: "temperror".into(), domain: None, policy: None }, of_dmarc),
            arc: ArcVerdict { result: arc.as_ref().map(ArcOutput::result).map_or("temperror", of_dkim).to_owned() },
        }
    }
}

fn of_spf(output: &SpfOutput) -> DomainVerdict {
    let result = match output.result() {
        SpfResult::Pass => "pass",
        SpfResult::Fail => "fail",
        SpfResult::SoftFail => "softfail",
        SpfResult::Neutral => "neutral",
        SpfResult::TempError => "temperror",
        SpfResult::PermError => "permerror",
        SpfResult::None => "none",
    };
    DomainVerdict { result: result.into(), domain: shown(output.domain()) }
}

fn of_dkim(result: &DkimResult) -> &'static str {
    match result {
        DkimResult::Pass => "pass",
        DkimResult::Neutral(_) => "neutral",
        DkimResult::Fail(_) => "fail",
        DkimResult::PermError(_) => "permerror",
        DkimResult::TempError(_) => "temperror",
        DkimResult::None => "none",
    }
}

fn of_signature(output: &DkimOutput<'_>) -> SignatureVerdict {
    let signature = output.signature();
    SignatureVerdict {
        result: of_dkim(output.result()).into(),
        domain: signature.and_then(|signature| shown(&signature.d)),
        selector: signature.and_then(|signature| shown(&signature.s)),
    }
}

fn of_dmarc(output: &DmarcOutput) -> DmarcVerdict {
    let result = match output.result() {
        DmarcResult::Pass => "pass",
        DmarcResult::Fail(_) => "fail",
        DmarcResult::TempError(_) => "temperror",
        DmarcResult::PermError(_) => "permerror",
        DmarcResult::None => "none",
    };
    let policy = match output.policy() {
        Policy::None => Some("none"),
        Policy::Quarantine => Some("quarantine"),
        Policy::Reject => Some("reject"),
        Policy::Unspecified => None,
    };
    DmarcVerdict { result: result.into(), domain: shown(output.domain()), policy: policy.map(str::to_owned) }
}

/// Returns a domain or a selector as it is stored: one line of limited length.
fn shown(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(255).collect();
    (!text.is_empty()).then_some(text)
}
