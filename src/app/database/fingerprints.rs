//! Compares the settings that must be the same in all replicas on one database. With different settings, one replica
//! could accept messages that another cannot sign or route.

use crate::config::{Config, SecretKey, SecretUrl};
use crate::db::workers::{self, LiveWorker};
use crate::db::{Db, DbError};
use crate::domain::installation::fingerprint::{Fingerprints, differences, secrets_fingerprint, text_fingerprint};

/// Returns the fingerprints of a configuration. Relay credentials are left out, so that they can be replaced one
/// replica at a time.
pub fn from_config(config: &Config) -> Fingerprints {
    let secrets = config.secret_key.iter().chain(&config.previous_secret_keys).map(SecretKey::expose);
    let relays = |urls: &[SecretUrl]| urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let routes = config.routes.iter().map(|(name, route)| {
        format!("{name} {:?} {:?} {}", route.streams, route.sender_domains_ascii(), relays(&route.relays))
    });
    let delivery = &config.delivery;
    [
        ("secret_key", secrets_fingerprint(secrets)),
        ("relay_url", text_fingerprint(&relays(config.relay_url.as_slice()))),
        ("routes", text_fingerprint(&routes.collect::<Vec<_>>().join("\n"))),
        ("public_url", text_fingerprint(config.public_url.as_ref().map_or("", |url| url.as_str()))),
        ("return_path", text_fingerprint(&format!("{:?} {}", config.return_path.domain, config.return_path.verp))),
        ("inbound.srs_domain", text_fingerprint(&config.inbound.srs_domain_ascii().unwrap_or_default())),
        ("delivery.retry_schedule", text_fingerprint(&format!("{:?}", delivery.retry_schedule))),
        ("delivery.retry_window", text_fingerprint(&format!("{:?}", delivery.retry_window))),
        ("delivery.tls", text_fingerprint(&format!("{:?}", delivery.tls_ascii()))),
        ("resend.relayed_as_delivered", text_fingerprint(&config.resend.relayed_as_delivered.to_string())),
        ("attachments.bucket", text_fingerprint(&bucket(config))),
        ("retention", text_fingerprint(&format!("{:?}", config.retention.periods(config.return_path.lifetime)))),
        ("domains.unverified", text_fingerprint(&format!("{:?}", config.domains.unverified))),
    ]
    .into_iter()
    .map(|(name, fingerprint)| (name.to_owned(), fingerprint))
    .collect()
}

/// Returns where large attachments are.
fn bucket(config: &Config) -> String {
    let section = &config.attachments;
    let endpoint = section.endpoint.as_ref().map_or("", |url| url.as_str());
    section.bucket.as_ref().map(|bucket| format!("{endpoint} {bucket}")).unwrap_or_default()
}

/// A worker with a different configuration.
#[derive(Debug)]
pub struct DifferingWorker {
    /// The worker.
    pub worker: LiveWorker,
    /// Names of the settings that differ.
    pub settings: Vec<String>,
}

/// Returns the running workers whose settings differ from `config`.
pub async fn differing(config: &Config, db: &Db) -> Result<Vec<DifferingWorker>, DbError> {
    let own = from_config(config);
    let live = workers::live(db, config.delivery.lease).await?;
    let differing = live.into_iter().filter_map(|worker| {
        let settings = differences(&own, &worker.settings);
        (!settings.is_empty()).then_some(DifferingWorker { worker, settings })
    });
    Ok(differing.collect())
}
