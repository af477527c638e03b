//! Makes `dev` safe to start anywhere, even with a production `postrider.toml` or environment: replaces every setting
//! by which data could leave this machine.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::{Config, CredentialSource, PrivateMx, Unverified, Webhooks};
use crate::dev::local_only::is_local_url;

use super::super::healthcheck::reachable;

/// Preferred port for submission. If it is in use, another one is chosen at the start.
const SUBMISSION_PORT: u16 = 1587;
/// The domain of return paths, if none is configured.
const RETURN_DOMAIN: &str = "return.postrider.test";

/// Changes the configuration so that every message goes to `inbox` and every webhook to this machine. Returns the
/// configuration keys whose values are ignored.
pub(super) fn isolate(config: &mut Config, database_url: &str, inbox: SocketAddr) -> Vec<String> {
    let mut ignored = Vec::new();
    let mut ignore = |is_set: bool, key: &str| {
        if is_set {
            ignored.push(key.to_owned());
        }
    };
    ignore(config.database.url.is_some(), "database.url (DATABASE_URL)");
    config.database.url = Some(database_url.to_owned().into());

    // With a relay and without routes, the route table has one entry, so no message goes direct to MX.
    ignore(config.relay_url.is_some(), "relay_url");
    config.relay_url = Some(format!("smtp://{inbox}?tls=none").into());
    ignore(config.relay_ca_file.take().is_some(), "relay_ca_file");
    for name in std::mem::take(&mut config.routes).into_keys() {
        ignore(true, &format!("routes.{name}"));
    }

    ignore(config.webhooks.allow_private, "webhooks.allow_private");
    ignore(!config.webhooks.allow.is_empty(), "webhooks.allow");
    let timeout = config.webhooks.timeout;
    config.webhooks = Webhooks { allow_private: false, allow: Vec::new(), timeout, this_machine_only: true };

    ignore(!config.resend.fetch_allow.is_empty(), "resend.fetch_allow");
    config.resend.fetch_allow.clear();
    config.resend.this_machine_only = true;

    ignore(!config.delivery.blocklists.is_empty(), "delivery.blocklists");
    config.delivery.blocklists.clear();

    // Credentials in the environment, and roles, are usually those of AWS.
    let has_role = matches!(config.attachments.credentials, CredentialSource::Environment | CredentialSource::Instance);
    let is_other_machine = config.attachments.endpoint.as_ref().is_none_or(|url| !is_local_url(url));
    if is_other_machine || has_role {
        ignore(config.attachments.bucket.take().is_some(), "attachments.bucket");
    }

    // A link in a message in the inbox must not lead to a production server, which might accept its signature.
    let is_other_machine = config.public_url.as_ref().is_some_and(|url| !is_local_url(url));
    ignore(is_other_machine, "public_url");
    if is_other_machine || config.public_url.is_none() {
        // Port 0 is replaced when the listener starts, so the URL is not known yet.
        config.public_url =
            (config.listen.port() != 0).then(|| format!("http://{}", reachable(config.listen)).parse().ok()).flatten();
    }

    // The SMTP server for bounces listens only on this machine.
    let is_open = config.inbound.listen.is_some_and(|address| !address.ip().is_loopback());
    ignore(is_open, "inbound.listen");
    if is_open || config.inbound.listen.is_none() {
        config.inbound.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    }
    // So does the one for submission, without TLS, because no certificate is needed there.
    let submission = &mut config.submission;
    let is_open = submission.listen.is_some_and(|address| !address.ip().is_loopback());
    ignore(is_open, "submission.listen");
    if is_open || submission.listen.is_none() {
        submission.listen = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, SUBMISSION_PORT)));
    }
    ignore(submission.tls_listen.take().is_some(), "submission.tls_listen");
    let files = [submission.cert_file.take(), submission.key_file.take()];
    ignore(files.iter().any(Option::is_some), "submission.cert_file, submission.key_file");

    // Received messages are passed on to servers on this machine only.
    let is_open = !matches!(config.inbound.allow_private_relays, PrivateMx::All(false));
    ignore(is_open, "inbound.allow_private_relays");
    config.inbound.allow_private_relays = PrivateMx::All(false);
    config.inbound.this_machine_only = true;

    // To authenticate received messages, the DNS would be asked about their senders.
    config.inbound.authenticate = false;
    config.return_path.domain.get_or_insert_with(|| RETURN_DOMAIN.into());

    // Nothing leaves this machine, so a copied or restored directory may send again.
    config.restore_guard.enabled = false;

    // A person waits for `dev` to stop, and there is no load balancer that needs the delay.
    config.http.drain_delay = Duration::ZERO;

    // Clients on this machine may read the metrics. Clients elsewhere cannot look like them, because no proxy runs in front
    // of `dev`.
    if config.metrics.allow.is_empty() {
        config.metrics.allow = vec!["127.0.0.0/8".into(), "::1".into()];
    }

    // The DNS has no records of the DKIM keys that `dev` creates.
    ignore(config.domains.unverified == Unverified::Refuse, "domains.unverified");
    config.domains.unverified = Unverified::Allow;
    ignored
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;

    fn inbox() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 1025))
    }

    #[test]
    fn dev_replaces_and_reports_every_outgoing_setting() {
        let mut config = Config {
            relay_url: Some("smtp://relay.example:587".to_owned().into()),
            relay_ca_file: Some("/etc/ca.pem".into()),
            public_url: Some("https://mail.acme.example".parse().unwrap()),
            ..Config::default()
        };
        config.database.url = Some("postgres://db.acme.example/postrider".to_owned().into());
        config.webhooks.allow_private = true;
        config.webhooks.allow = vec!["10.0.0.0/8".into()];
        config.resend.fetch_allow = vec!["files.acme.example".into()];
        config.delivery.blocklists = vec!["bl.example".into()];
        config.attachments.bucket = Some("acme".into());
        config.inbound.listen = Some("0.0.0.0:25".parse().unwrap());
        config.inbound.allow_private_relays = PrivateMx::All(true);
        config.submission.listen = Some("0.0.0.0:587".parse().unwrap());
        config.submission.tls_listen = Some("0.0.0.0:465".parse().unwrap());
        config.submission.cert_file = Some("/etc/postrider/submission.pem".into());
        config.domains.unverified = Unverified::Refuse;
        let direct = Route { relays: vec!["mx".to_owned().into()], ..Route::default() };
        config.routes.insert("own".into(), direct);
        let ignored = isolate(&mut config, "postgres://127.0.0.1:5/dev", inbox());
        assert_eq!(
            ignored,
            [
                "database.url (DATABASE_URL)",
                "relay_url",
                "relay_ca_file",
                "routes.own",
                "webhooks.allow_private",
                "webhooks.allow",
                "resend.fetch_allow",
                "delivery.blocklists",
                "attachments.bucket",
                "public_url",
                "inbound.listen",
                "submission.listen",
                "submission.tls_listen",
                "submission.cert_file, submission.key_file",
                "inbound.allow_private_relays",
                "domains.unverified",
            ]
        );
        assert!(config.routes.is_empty() && config.relay_ca_file.is_none() && config.webhooks.this_machine_only);
        assert!(config.resend.this_machine_only && config.resend.fetch_allow.is_empty());
        assert_eq!(config.attachments.bucket, None);
        assert_eq!(config.relay_url.unwrap().expose(), "smtp://127.0.0.1:1025?tls=none");
        assert_eq!(config.public_url.unwrap().as_str(), "http://127.0.0.1:8080/");
        assert!(config.inbound.listen.unwrap().ip().is_loopback());
        assert_eq!(config.submission.listen.unwrap().to_string(), "127.0.0.1:1587");
        assert!(config.submission.all_connections() == u64::from(config.submission.connections));
    }

    #[test]
    fn dev_reports_no_unset_setting_as_ignored() {
        let mut config = Config::default();
        assert!(isolate(&mut config, "postgres://127.0.0.1:5/dev", inbox()).is_empty());
        let mut local = Config { public_url: Some("http://localhost:9000".parse().unwrap()), ..Config::default() };
        assert!(isolate(&mut local, "postgres://127.0.0.1:5/dev", inbox()).is_empty());
        assert_eq!(local.public_url.unwrap().as_str(), "http://localhost:9000/");
    }
}
