//! Parses the extensions that a server offers in its reply to EHLO (RFC 5321 §4.1.1.1).

use lettre::transport::smtp::authentication::Mechanism;
use lettre::transport::smtp::extension::{Extension, ServerInfo};
use lettre::transport::smtp::response::{Category, Code, Detail, Response, Severity};

use super::reply::RawReply;

/// The offered extensions, as far as the client uses them. The default is none, as after HELO.
#[derive(Debug, Clone, Default)]
pub(in crate::smtp) struct Capabilities {
    info: ServerInfo,
    /// Commands may be sent in groups (RFC 2920).
    pub pipelining: bool,
    /// Notifications may be requested (RFC 3461).
    pub dsn: bool,
    /// SIZE is offered (RFC 1870).
    pub size: bool,
    /// The mechanisms of AUTH (RFC 4954), without duplicates.
    pub mechanisms: Vec<String>,
    /// The largest message in bytes, if the server announces a limit.
    pub size_limit: Option<u64>,
}

impl Capabilities {
    /// Parses the reply to EHLO. Keywords are case-insensitive; the first line is the server's name.
    pub fn parse(reply: &RawReply) -> Self {
        // Some servers send `AUTH=LOGIN PLAIN`, alone or besides `AUTH`, as in a draft before RFC 2554.
        let keyword = |line: &str| {
            let line = line.trim().to_ascii_uppercase();
            line.strip_prefix("AUTH=").map(|mechanisms| format!("AUTH {mechanisms}")).unwrap_or(line)
        };
        let keywords = reply.lines().skip(1).map(keyword);
        let keywords: Vec<String> = keywords.filter(|line| !line.is_empty()).collect();
        let mut offer = Self::default();
        for line in &keywords {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("PIPELINING") => offer.pipelining = true,
                Some("DSN") => offer.dsn = true,
                Some("SIZE") => {
                    offer.size = true;
                    offer.size_limit = words.next().and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
                }
                Some("AUTH") => {
                    for mechanism in words {
                        if !offer.mechanisms.iter().any(|listed| listed == mechanism) {
                            offer.mechanisms.push(mechanism.to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        let code = Code::new(Severity::PositiveCompletion, Category::MailSystem, Detail::Zero);
        // The first line is replaced: lettre would read the name of a server called STARTTLS as a keyword.
        let lines = std::iter::once("server".to_owned()).chain(keywords).collect();
        offer.info = ServerInfo::from_response(&Response::new(code, lines)).unwrap_or_default();
        offer
    }

    /// Returns whether STARTTLS is offered (RFC 3207).
    pub fn starttls(&self) -> bool {
        self.info.supports_feature(Extension::StartTls)
    }

    /// Returns whether 8BITMIME is offered (RFC 6152).
    pub fn eight_bit_mime(&self) -> bool {
        self.info.supports_feature(Extension::EightBitMime)
    }

    /// Returns whether SMTPUTF8 is offered (RFC 6531).
    pub fn smtputf8(&self) -> bool {
        self.info.supports_feature(Extension::SmtpUtfEight)
    }

    /// Returns the first of `mechanisms` that is offered (RFC 4954).
    pub fn mechanism(&self, mechanisms: &[Mechanism]) -> Option<Mechanism> {
        self.info.get_auth_mechanism(mechanisms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::corrupt_replies;
    use super::super::reply::ReplyReader;
    use super::*;

    fn offer(text: &str) -> Capabilities {
        Capabilities::parse(&RawReply { code: 250, first_code: 250, text: text.into() })
    }

    #[test]
    fn keywords_are_case_insensitive() {
        let offer = offer("mx.test\nPipelining\nsize 1000\n8bitmime\nSMTPUTF8\nSTARTTLS\nAUTH LOGIN plain");
        assert!(offer.pipelining && offer.eight_bit_mime() && offer.smtputf8() && offer.starttls());
        assert_eq!(offer.size_limit, Some(1_000));
        assert_eq!(offer.mechanism(&[Mechanism::Plain, Mechanism::Login]), Some(Mechanism::Plain));
    }

    #[test]
    fn auth_with_an_equals_sign_is_parsed() {
        let offer = offer("mx.test\nAUTH=LOGIN PLAIN\nAUTH CRAM-MD5 PLAIN");
        assert_eq!(offer.mechanism(&[Mechanism::Plain]), Some(Mechanism::Plain));
        assert_eq!(offer.mechanisms, ["LOGIN", "PLAIN", "CRAM-MD5"]);
    }

    #[test]
    fn the_server_name_is_not_a_keyword() {
        let offer = offer("STARTTLS\nSIZE 0");
        assert!(!offer.starttls() && offer.size);
        assert_eq!(offer.size_limit, None, "SIZE 0 is no limit");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(text in any::<String>()) {
            let _ = offer(&text);
        }

        #[test]
        fn a_corrupt_reply_offers_only_the_keywords_it_contains(bytes in corrupt_replies::stream()) {
            let mut reader = ReplyReader::default();
            if let Ok((_, Some(reply))) = reader.feed(&bytes) {
                let offer = Capabilities::parse(&reply);
                let has = |keyword: &str| reply.text.to_ascii_uppercase().contains(keyword);
                prop_assert!(!offer.starttls() || has("STARTTLS"));
                prop_assert!(!offer.pipelining || has("PIPELINING"));
                prop_assert!(!offer.dsn || has("DSN"));
                prop_assert!(!offer.smtputf8() || has("SMTPUTF8"));
                prop_assert!(!offer.eight_bit_mime() || has("8BITMIME"));
                prop_assert!(offer.mechanism(&[Mechanism::Plain]).is_none() || has("PLAIN"));
            }
        }
    }
}
