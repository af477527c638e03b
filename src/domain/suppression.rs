//! Suppressions: addresses that get no mail, why, and until when.
//!
//! An entry holds for all mail of its tenant or for that of one stream. It is looked up by an address as mail servers mostly
//! compare them ([`AddressKey`]), at accept and again at claim. What tells of a passing trouble never makes one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::address::Address;
use super::explain::phrases::time;
use super::id::{MessageId, RecipientId};
use super::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Why an address gets no mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SuppressionReason)]
pub enum Reason {
    /// There is no such mailbox.
    HardBounce,
    /// Its owner called a mail spam.
    Complaint,
    /// Its owner wants no more of it.
    Unsubscribe,
    /// Somebody put it on the list.
    Manual,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::HardBounce, Self::Complaint, Self::Unsubscribe, Self::Manual];

    /// The word in SQL, JSON and documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HardBounce => "hard_bounce",
            Self::Complaint => "complaint",
            Self::Unsubscribe => "unsubscribe",
            Self::Manual => "manual",
        }
    }
}

impl FromStr for Reason {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word).ok_or(())
    }
}

/// An address as suppressions compare it: lower case throughout, the domain as A-labels, quotes only where the local part
/// cannot do without. Whatever case a sender writes it in, it is one mailbox nearly everywhere, and its owner said no.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey(String);

impl AddressKey {
    /// The text that is stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it is stored.
    pub fn stored(text: String) -> Self {
        Self(text)
    }
}

impl From<&Address> for AddressKey {
    fn from(address: &Address) -> Self {
        Self(format!("{}@{}", local(address.local()), address.domain()))
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn local(written: &str) -> String {
    let Some(quoted) = written.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return lower(written) };
    let mut text = String::with_capacity(quoted.len());
    let mut chars = quoted.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    let text = lower(&text);
    let bare = format!("{text}@example.test").parse::<Address>();
    if bare.is_ok_and(|bare| bare.local() == text && !text.starts_with('"')) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Letter by letter, whatever stands beside: the same letters are the same text always.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// Who gets no mail.
    pub address: AddressKey,
    /// Of which stream; none: of all.
    pub stream: Option<String>,
    /// Why.
    pub reason: Reason,
    /// The mail that was the reason, where one was.
    pub message_id: Option<MessageId>,
    /// Its recipient.
    pub recipient_id: Option<RecipientId>,
    /// What somebody wrote of it.
    pub note: Option<String>,
    /// Since when.
    pub created_at: DateTime<Utc>,
    /// Until when; none: for good.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Suppression {
    /// The longest note, in characters.
    pub const MAX_NOTE: usize = 500;

    /// Which entry it is, since when and why: for the history of a recipient that gets nothing because of it.
    pub fn told(&self) -> String {
        let of = self.stream.as_ref().map_or_else(String::new, |stream| format!(" of stream {stream}"));
        let until = self.expires_at.map_or_else(String::new, |at| format!(", until {}", time(at)));
        format!(
            "{} is on the suppression list{of} since {} ({}){until}",
            self.address,
            time(self.created_at),
            self.reason.as_str()
        )
    }

    /// What comes of a recipient whom it holds for: an end without an attempt, in our words.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            verdict: Verdict::Permanent,
            reply: Reply::ours(self.told()),
            peer: Peer::default(),
            duration: Duration::ZERO,
            // Nothing that a destination could be blamed for.
            stage: Stage::Data,
        }
    }

    /// The call that removes it.
    pub fn removal(&self) -> String {
        let stream = self.stream.as_deref().unwrap_or("*");
        let address: String = url::form_urlencoded::byte_serialize(self.address.as_str().as_bytes()).collect();
        // In a path a plus is a plus.
        let address = address.replace('+', "%20").replace("%40", "@").replace("%2B", "+");
        format!("DELETE /v1/suppressions/{address}?stream={stream}")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(address: &str) -> String {
        AddressKey::from(&address.parse::<Address>().unwrap()).to_string()
    }

    #[test]
    fn one_mailbox_has_one_key_however_it_is_written() {
        for (written, same) in [
            ("Ann.Lee@Example.TEST", "ann.lee@example.test"),
            ("ann@bücher.test", "ann@xn--bcher-kva.test"),
            ("ann@XN--BCHER-KVA.test", "ann@xn--bcher-kva.test"),
            ("\"Ann\"@example.test", "ann@example.test"),
            (r#""A\nn"@example.test"#, "ann@example.test"),
            ("\"Ann Lee\"@example.test", "\"ann lee\"@example.test"),
            (r#""a\"B"@example.test"#, r#""a\"b"@example.test"#),
            ("\"a..b\"@example.test", "\"a..b\"@example.test"),
            ("ÅSA@example.test", "åsa@example.test"),
            ("ΟΔΟΣ@example.test", "οδοσ@example.test"),
            ("a+b@[192.0.2.1]", "a+b@[192.0.2.1]"),
        ] {
            assert_eq!(key(written), same, "{written}");
        }
        assert_ne!(key("ann@example.test"), key("ann+x@example.test"), "a part of its own may be a mailbox of its own");
    }

    proptest! {
        #[test]
        fn a_key_is_its_own_key(local in "([a-zA-Z0-9+]{1,8}|\"[ -~&&[^\"\\\\]]{1,8}\")") {
            let once = key(&format!("{local}@example.test"));
            prop_assert_eq!(key(&once), once);
        }

        #[test]
        fn case_makes_no_difference(local in "[a-zA-ZäöüÄÖÜ]{1,8}") {
            prop_assert_eq!(key(&format!("{local}@example.test")), key(&format!("{}@EXAMPLE.test", local.to_uppercase())));
        }
    }

    #[test]
    fn an_entry_tells_what_it_is_and_how_it_goes() {
        let entry = Suppression {
            address: AddressKey("a+b c@example.test".into()),
            stream: Some("news".into()),
            reason: Reason::Complaint,
            message_id: None,
            recipient_id: None,
            note: None,
            created_at: DateTime::UNIX_EPOCH,
            expires_at: None,
        };
        assert_eq!(
            entry.told(),
            "a+b c@example.test is on the suppression list of stream news since 1970-01-01T00:00:00Z (complaint)"
        );
        assert_eq!(entry.removal(), "DELETE /v1/suppressions/a+b%20c@example.test?stream=news");
        assert!(entry.outcome().is_ours());
    }

    #[test]
    fn every_reason_reads_back_from_its_word() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
