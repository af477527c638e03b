//! When the certificates of the SMTP servers for bounces and for submission expire.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::metrics::METRICS;

/// Interval of the checks: the files may be renewed while the process runs.
const INTERVAL: Duration = Duration::from_mins(10);

/// Exports when the first of these certificates expires, until the process ends.
pub(super) async fn record_expiry_periodically(chains: Vec<PathBuf>) {
    loop {
        let chains = chains.clone();
        // The files may be on a slow disk. If the task panics, the earlier value stays.
        let _ = tokio::task::spawn_blocking(move || record_expiry(&chains)).await;
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Exports when the first of the certificates expires. The servers read the same files, and report their faults.
fn record_expiry(chains: &[PathBuf]) {
    let expiry = |chain: &PathBuf| not_after(&CertificateDer::from_pem_file(chain).ok()?);
    if let Some(first) = chains.iter().filter_map(expiry).min()
        && let Ok(seconds) = u32::try_from(first.timestamp())
    {
        METRICS.certificate_expiry.set(seconds);
    }
}

/// Returns the end of the validity of a certificate (RFC 5280 §4.1).
fn not_after(der: &[u8]) -> Option<DateTime<Utc>> {
    /// The tag of the version, which may be missing.
    const VERSION: u8 = 0xA0;
    const UTC_TIME: u8 = 0x17;
    let (_, certificate, _) = element(der)?;
    let (_, mut fields, _) = element(certificate)?;
    if let (VERSION, _, rest) = element(fields)? {
        fields = rest;
    }
    // Serial number, signature algorithm and issuer.
    for _ in 0..3 {
        (_, _, fields) = element(fields)?;
    }
    let (_, validity, _) = element(fields)?;
    let (_, _, validity) = element(validity)?;
    let (tag, time, _) = element(validity)?;
    let mut text = std::str::from_utf8(time).ok()?.to_owned();
    if tag == UTC_TIME {
        // Years have two digits, and those before 50 are of this century.
        text.insert_str(0, if text.as_str() < "50" { "20" } else { "19" });
    }
    NaiveDateTime::parse_from_str(&text, "%Y%m%d%H%M%SZ").ok().map(|time| time.and_utc())
}

/// Splits off an element of DER: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7F))?;
        let length =
            digits.iter().try_fold(0usize, |length, digit| length.checked_mul(256)?.checked_add((*digit).into()));
        (length?, rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["mail.test".into()]).unwrap();
        params.not_after = date_time_ymd(year, 5, 17);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn expiry_is_read_in_both_formats_of_time() {
        for year in [2031, 2077] {
            let expiry = not_after(&certificate(year)).expect("a time");
            assert_eq!(expiry.to_rfc3339(), format!("{year}-05-17T00:00:00+00:00"));
        }
    }

    #[test]
    fn damaged_certificate_has_no_expiry() {
        let der = certificate(2031);
        for end in 0..100 {
            assert_eq!(not_after(&der[..end]), None, "{end}");
        }
        assert_eq!(not_after(&[0x30, 0xFF, 1, 2]), None);
    }
}
