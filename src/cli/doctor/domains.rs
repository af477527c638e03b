//! Checks what other servers verify: the secret key, the DNS records of each registered domain, and this machine's name
//! when it sends direct to MX.

use std::net::IpAddr;

use super::Report;
use crate::app;
use crate::app::self_checks::blocklists::Checks;
use crate::app::settings::domains as settings;
use crate::config::Config;
use crate::db::domains::cache::{SenderCache, SenderStatus};
use crate::db::domains::{self, DomainRow, KeyRow};
use crate::db::{Db, DbError, webhooks};
use crate::dns::{self, UncachedResolver};
use crate::domain::id::TenantId;
use crate::domain::sender_domain::dns_records::{Finding, PublishedKey, RecordStatus, records};

/// Maximum number of domains checked.
const MAX_DOMAINS: i64 = 1_000;

pub(super) async fn check(config: &Config, report: &mut Report) {
    let dns = match settings::uncached_resolver(config) {
        Ok(dns) => dns,
        Err(error) => return report.bad("dns", format!("{error:#}")),
    };
    if let Ok(db) = app::database(config) {
        match domains::all(&db, MAX_DOMAINS).await {
            Ok(rows) => check_registered(config, &db, &dns, rows, report).await,
            Err(error) => report.bad("domains", error),
        }
        db.close().await;
    }
    let terms = settings::dns_settings(config);
    if terms.is_direct {
        check_hostname(&terms.hostname, &dns, report).await;
    }
    check_blocklists(config, report).await;
}

async fn check_registered(config: &Config, db: &Db, dns: &UncachedResolver, rows: Vec<DomainRow>, report: &mut Report) {
    match (&config.secret_key, rows.is_empty()) {
        (Some(_), _) => Report::ok("secret_key", "it is set"),
        (None, true) => match webhooks::secrets::unencrypted(db, 1).await {
            Ok(clear) if clear.is_empty() => {
                Report::ok(
                    "secret_key",
                    "it is not set, and nothing needs it yet: there are no DKIM keys and no webhooks",
                );
            }
            Ok(_) => Report::warn(
                "secret_key",
                "it is not set, so the secrets of webhooks are not encrypted in the database: set it to the output of \
                 `openssl rand -base64 33`",
            ),
            Err(error) => report.bad("secret_key", error),
        },
        (None, false) => report.bad(
            "secret_key",
            "it is not set, and messages from registered domains wait: set it to the key used at their registration",
        ),
    }
    if rows.is_empty() {
        Report::ok("domains", "none are registered, so messages are not signed: register them with POST /v1/domains");
    }
    let senders = SenderCache::new(db.clone(), std::sync::Arc::default(), config.keyring(), config.dkim.algorithms());
    for row in rows {
        if let Err(error) = check_domain(config, db, dns, &senders, &row, report).await {
            report.bad(&format!("domain {}", row.name), error);
        }
    }
}

/// Prints one line for each record of a domain, and one if its keys cannot be decrypted.
async fn check_domain(
    config: &Config,
    db: &Db,
    dns: &UncachedResolver,
    senders: &SenderCache,
    row: &DomainRow,
    report: &mut Report,
) -> Result<(), DbError> {
    let tenant = TenantId(row.tenant_id);
    if let SenderStatus::Registered(sender) = senders.get(tenant, &row.name).await?
        && let Err(error) = &sender.signer
    {
        report.bad(
            &format!("domain {}", row.name),
            format!("its keys cannot be decrypted, so its messages wait: {error}"),
        );
    }
    let keys: Vec<PublishedKey> = domains::keys(db, tenant, std::slice::from_ref(&row.name))
        .await?
        .iter()
        .filter_map(KeyRow::published)
        .collect();
    let terms = settings::dns_settings(config);
    let idle: Vec<String> = keys.iter().filter(|key| !key.is_in_use(&terms)).map(|key| key.name(&row.name)).collect();
    for finding in dns::check(dns, records(&terms, &row.name, &keys)).await {
        print_record(&row.name, finding, &idle, report);
    }
    Ok(())
}

/// Prints the line of one record. `idle` lists the names of the records whose keys do not sign; these records are not
/// required.
fn print_record(domain: &str, finding: Finding, idle: &[String], report: &mut Report) {
    let subject = format!("domain {domain}, {}", finding.name);
    if let Some(warning) = finding.warning.filter(|_| finding.status == RecordStatus::Ok) {
        return Report::ok(&subject, format!("published. {warning}"));
    }
    match (finding.status, finding.fix) {
        (RecordStatus::Ok, _) if idle.contains(&finding.name) => Report::ok(&subject, "published (not in use)"),
        _ if idle.contains(&finding.name) => Report::ok(&subject, "differs from the expected record (not in use)"),
        (RecordStatus::Ok, _) => Report::ok(&subject, "published"),
        (_, Some(fix)) => report.bad(&subject, fix),
        (_, None) => report.bad(&subject, "differs from the expected record"),
    }
}

/// Checks the hostname: receivers look up the PTR record of the sending address and expect it to be the name in EHLO,
/// which must resolve to that address.
async fn check_hostname(hostname: &str, dns: &UncachedResolver, report: &mut Report) {
    let subject = format!("hostname {hostname}");
    if !hostname.contains('.') {
        return report.bad(
            &subject,
            "other servers cannot resolve this name: set hostname to a name that resolves to this machine",
        );
    }
    if hostname.starts_with('[') {
        return report
            .bad(&subject, "many servers refuse an address as a name: set hostname to a name that resolves to it");
    }
    match dns.addresses(hostname).await {
        Err(why) => {
            report
                .bad(&subject, format!("the DNS query failed ({why}): check that `dns` is the address of a resolver"));
        }
        Ok(addresses) if addresses.is_empty() => {
            report
                .bad(&subject, "it has no address: publish an A record with the address that this machine sends from");
        }
        Ok(addresses) => {
            for address in addresses {
                check_ptr(&subject, hostname, address, dns, report).await;
            }
        }
    }
}

/// Looks up the addresses of the hostname in the configured blocklists.
async fn check_blocklists(config: &Config, report: &mut Report) {
    const SUBJECT: &str = "blocklists";
    if config.delivery.blocklists.is_empty() {
        return;
    }
    let findings = match Checks::new(config) {
        Ok(checks) => checks.once().await,
        Err(error) => return report.bad(SUBJECT, format!("{error:#}")),
    };
    for (address, list) in &findings.listed {
        report.bad(SUBJECT, format!("{list} names {address}: ask its operator why, and for the removal"));
    }
    for why in &findings.failures {
        Report::warn(SUBJECT, why);
    }
    if findings.listed.is_empty() && findings.checked > 0 {
        Report::ok(SUBJECT, "none of them names an address of the hostname");
    }
}

async fn check_ptr(subject: &str, hostname: &str, address: IpAddr, dns: &UncachedResolver, report: &mut Report) {
    match dns.names(address).await {
        Err(why) => report.bad(subject, format!("the PTR query for {address} failed ({why})")),
        Ok(names) if names.iter().any(|name| name.eq_ignore_ascii_case(hostname.trim_end_matches('.'))) => {
            Report::ok(subject, format!("it resolves to {address}, whose PTR record names it"));
        }
        Ok(names) if names.is_empty() => report.bad(
            subject,
            format!("it resolves to {address}, which has no PTR record: have the provider of the address set one"),
        ),
        Ok(names) => report.bad(
            subject,
            format!(
                "it resolves to {address}, whose PTR record is {}: change it to {hostname}, or set hostname to it",
                names.join(", ")
            ),
        ),
    }
}
