//! Suppressions: addresses to which no messages are sent, with the reason and the expiry.
//!
//! An entry applies to all messages of its tenant or to those of one stream. It is looked up by [`AddressKey`] when a
//! message is accepted, and again when a recipient is claimed or its message is handed off directly. A temporary
//! failure never creates an entry.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::address::Address;
use super::explain::phrases::time;
use super::id::{MessageId, RecipientId};
use super::outcome::{Outcome, Peer, Reply, Stage, Verdict};

/// Why an address is suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SuppressionReason)]
pub enum Reason {
    /// A bounce showed that there is no such mailbox.
    HardBounce,
    /// The recipient reported a message as spam.
    Complaint,
    /// The recipient unsubscribed.
    Unsubscribe,
    /// The entry was created through the API.
    Manual,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 4] = [Self::HardBounce, Self::Complaint, Self::Unsubscribe, Self::Manual];

    /// Returns the reason's name in SQL, JSON and documentation.
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

/// An address normalised for comparison: lower case, the domain as A-labels, the local part quoted only if necessary.
/// Suppressions ignore the case of the local part, because nearly all servers do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey(String);

impl AddressKey {
    /// Returns the stored text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Creates a key from its column.
    pub fn from_column(text: String) -> Self {
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

/// Converts each character to lower case regardless of its context, so that texts that differ only in case become
/// equal.
fn lower(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// An entry of the suppression list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// The suppressed address.
    pub address: AddressKey,
    /// The stream; `None` for all streams.
    pub stream: Option<String>,
    /// The reason.
    pub reason: Reason,
    /// The message that caused it, if any.
    pub message_id: Option<MessageId>,
    /// The recipient that caused it, if any.
    pub recipient_id: Option<RecipientId>,
    /// The operator's note.
    pub note: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it expires; `None` if never.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Suppression {
    /// The maximum length of a note, in characters.
    pub const MAX_NOTE: usize = 500;

    /// Describes the entry for the history of a suppressed recipient: its scope, start, reason and expiry.
    pub fn description(&self) -> String {
        let of = self.stream.as_ref().map_or_else(String::new, |stream| format!(" of stream {stream}"));
        let until = self.expires_at.map_or_else(String::new, |at| format!(", until {}", time(at)));
        format!(
            "{} is on the suppression list{of} since {} ({}){until}",
            self.address,
            time(self.created_at),
            self.reason.as_str()
        )
    }

    /// Returns the reason in a [`description`](Self::description); `None` if the text is another one.
    pub fn reason_in(description: &str) -> Option<Reason> {
        // The address before it may contain any text.
        let (_, rest) = description.rsplit_once(" is on the suppression list")?;
        let (_, reason) = rest.split_once('(')?;
        reason.split_once(')')?.0.parse().ok()
    }

    /// Returns the outcome of a suppressed recipient, which ends without an attempt.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            verdict: Verdict::Permanent,
            reply: Reply::local_error(self.description()),
            peer: Peer::default(),
            duration: Duration::ZERO,
            // A stage after `Session` marks the outcome as local, and not as an error of the destination.
            stage: Stage::Data,
        }
    }

    /// Returns the API call that deletes the entry.
    pub fn removal(&self) -> String {
        let stream = self.stream.as_deref().unwrap_or("*");
        let address: String = url::form_urlencoded::byte_serialize(self.address.as_str().as_bytes()).collect();
        // In a path, a plus sign is literal and a space is `%20`.
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
    fn one_mailbox_has_one_key_in_any_notation() {
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
        assert_ne!(key("ann@example.test"), key("ann+x@example.test"), "a subaddress may be a separate mailbox");
    }

    proptest! {
        #[test]
        fn key_is_idempotent(local in "([a-zA-Z0-9+]{1,8}|\"[ -~&&[^\"\\\\]]{1,8}\")") {
            let once = key(&format!("{local}@example.test"));
            prop_assert_eq!(key(&once), once);
        }

        #[test]
        fn case_makes_no_difference(local in "[a-zA-ZäöüÄÖÜ]{1,8}") {
            prop_assert_eq!(key(&format!("{local}@example.test")), key(&format!("{}@EXAMPLE.test", local.to_uppercase())));
        }
    }

    #[test]
    fn entry_has_a_description_and_a_removal_call() {
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
            entry.description(),
            "a+b c@example.test is on the suppression list of stream news since 1970-01-01T00:00:00Z (complaint)"
        );
        let expiring = Suppression { expires_at: Some(DateTime::UNIX_EPOCH), ..entry.clone() };
        assert_eq!(Suppression::reason_in(&entry.description()), Some(Reason::Complaint));
        assert_eq!(Suppression::reason_in(&expiring.description()), Some(Reason::Complaint));
        assert_eq!(Suppression::reason_in("550 5.7.1 blocked (complaint)"), None);
        assert_eq!(entry.removal(), "DELETE /v1/suppressions/a+b%20c@example.test?stream=news");
        assert!(entry.outcome().is_local());
    }

    #[test]
    fn every_reason_round_trips() {
        for reason in Reason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
