//! Describes errors of the operating system and of TLS in plain language; the libraries' own texts contain type names.

use std::io;

use chrono::DateTime;
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error};

/// Maximum number of a certificate's names in a description.
const MAX_NAMES: usize = 5;

/// Describes why a connection failed. The text is used after a colon.
pub(in crate::smtp) fn io(error: &io::Error) -> String {
    if let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return tls(error);
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return "the server closed the connection".into();
    }
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    text[..end].to_owned()
}

/// Describes why TLS failed.
pub(in crate::smtp) fn tls(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => "the server presented no certificate".into(),
        Error::AlertReceived(alert) => format!("the server refused it: {}", spaced(&format!("{alert:?}"))),
        Error::PeerIncompatible(_) => "the server offers no protocol version or cipher that is supported here".into(),
        Error::InvalidMessage(_) => "the server's response is not TLS".into(),
        Error::PeerMisbehaved(_) | Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the server violated the TLS protocol".into()
        }
        Error::DecryptError => "the server's response cannot be decrypted".into(),
        Error::General(text) => text.clone(),
        _ => "the handshake cannot continue".into(),
    }
}

/// Describes what is wrong with a certificate.
fn certificate(error: &CertificateError) -> String {
    match error {
        CertificateError::Expired => "the certificate has expired".into(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("the certificate expired on {}", date(*not_after))
        }
        CertificateError::NotValidYet => "the certificate is not valid yet".into(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("the certificate is not valid before {}", date(*not_before))
        }
        CertificateError::Revoked => "the certificate was revoked".into(),
        CertificateError::UnknownIssuer => "the certificate's issuer is not trusted here".into(),
        CertificateError::NotValidForName => "the certificate is not valid for the server's name".into(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let names: Vec<&str> = presented.iter().take(MAX_NAMES).map(|name| plain(name)).collect();
            let more = if presented.len() > MAX_NAMES { ", …" } else { "" };
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") + more };
            format!("the certificate is valid for {names}, and not for {}", expected.to_str())
        }
        CertificateError::BadSignature => "the certificate's signature is wrong".into(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not issued for servers".into()
        }
        CertificateError::BadEncoding => "the certificate cannot be read".into(),
        CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
            "the certificate is a CA certificate, not a server's".into()
        }
        _ => "the certificate cannot be verified".into(),
    }
}

/// Turns `DnsName("mx.test")` into `mx.test`.
fn plain(name: &str) -> &str {
    name.split('"').nth(1).unwrap_or(name)
}

fn date(time: UnixTime) -> String {
    let date = i64::try_from(time.as_secs()).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    date.map_or_else(|| "an unknown day".into(), |date| date.format("%Y-%m-%d").to_string())
}

/// Turns `HandshakeFailure` into `handshake failure`.
fn spaced(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, InvalidMessage, OtherError};

    use super::*;

    fn described(error: Error) -> String {
        io(&io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn error_texts_contain_no_type_names() {
        let day = |days: u64| UnixTime::since_unix_epoch(Duration::from_secs(days * 86_400));
        let expired = CertificateError::ExpiredContext { time: day(400), not_after: day(365) };
        assert_eq!(described(Error::InvalidCertificate(expired)), "the certificate expired on 1971-01-01");
        let misnamed = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("mx.test").unwrap(),
            presented: vec!["DnsName(\"other.test\")".into()],
        };
        assert_eq!(
            described(Error::InvalidCertificate(misnamed)),
            "the certificate is valid for other.test, and not for mx.test"
        );
        let other = OtherError(std::sync::Arc::new(io::Error::other("CaUsedAsEndEntity")));
        assert_eq!(
            described(Error::InvalidCertificate(CertificateError::Other(other))),
            "the certificate is a CA certificate, not a server's"
        );
        assert_eq!(
            described(Error::AlertReceived(AlertDescription::HandshakeFailure)),
            "the server refused it: handshake failure"
        );
        assert_eq!(
            described(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
            "the server's response is not TLS"
        );
        assert_eq!(io(&io::Error::from_raw_os_error(111)), "Connection refused");
    }
}
