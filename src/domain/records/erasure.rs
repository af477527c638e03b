//! Erasing everything about one address.
//!
//! What is stored about the address is deleted, and the address itself becomes a pseudonym: a keyed hash in the form of an
//! address (the SQL function `erased_address`). So states and counts stay, and the suppression list keeps working.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::domain::address::Address;
use crate::domain::suppression::AddressKey;
use crate::domain::words::words;

words! {
    /// The state of an erasure.
    pub enum ErasureStatus as "ErasureStatus" {
        /// What contains the address is looked for and erased.
        Running = "running",
        /// Everything was erased.
        Done = "done",
        /// It ended early because of an error; what was erased stays erased.
        Failed = "failed",
    }
}

words! {
    /// What an erasure examines, in this order.
    pub enum ErasurePhase as "ErasurePhase" {
        /// The suppression list.
        Suppressions = "suppressions",
        /// Recipients of bulks that are not messages yet.
        Bulks = "bulks",
        /// Messages sent from SQL that are not accepted yet, or were refused.
        SqlInbox = "sql_inbox",
        /// Messages to the address.
        Messages = "messages",
        /// Received messages.
        Received = "received",
        /// What webhook endpoints responded.
        WebhookLog = "webhook_log",
        /// Idempotency keys.
        IdempotencyKeys = "idempotency_keys",
        /// The audit log.
        AuditLog = "audit_log",
        /// Replies in lanes, errors of webhook endpoints, refused recipients of bulks, and filters of actions.
        Texts = "texts",
    }
}

impl ErasurePhase {
    /// Returns the phase with this name.
    pub fn from_column(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == name)
    }

    /// Returns the phase after this one.
    pub fn next(self) -> Option<Self> {
        Self::ALL.into_iter().skip_while(|phase| *phase != self).nth(1)
    }
}

/// How much was erased.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErasedCounts {
    /// Messages whose content was erased.
    #[schema(example = 12)]
    pub messages: u64,
    /// Recipients whose address was replaced.
    #[schema(example = 12)]
    pub recipients: u64,
    /// Of these, recipients that were queued and were canceled.
    #[schema(example = 1)]
    pub canceled: u64,
    /// Recipients of bulks that had not become messages, and were removed.
    #[schema(example = 0)]
    pub bulk_recipients: u64,
    /// Messages sent from SQL that were not accepted, and were deleted, or no longer go to the address.
    #[schema(example = 0)]
    pub sql_messages: u64,
    /// Received messages from or to the address that were deleted.
    #[schema(example = 2)]
    pub received_messages: u64,
    /// Suppressions whose address was replaced. They stay in effect.
    #[schema(example = 1)]
    pub suppressions: u64,
    /// Entries in the logs of webhook posts whose response was erased.
    #[schema(example = 3)]
    pub webhook_attempts: u64,
    /// Idempotency keys that were deleted, because they or their stored responses contained the address.
    #[schema(example = 0)]
    pub idempotency_keys: u64,
    /// Entries in the audit log in which the address was replaced.
    #[schema(example = 1)]
    pub audit_entries: u64,
    /// Other texts in which the address was replaced.
    #[schema(example = 0)]
    pub other_texts: u64,
}

impl ErasedCounts {
    /// Returns stored counts (`erasures.counts`). Those that are missing are 0.
    pub fn from_column(stored: Value) -> Option<Self> {
        let (Value::Object(mut all), Value::Object(stored)) = (serde_json::to_value(Self::default()).ok()?, stored)
        else {
            return None;
        };
        all.extend(stored);
        serde_json::from_value(Value::Object(all)).ok()
    }
}

/// The fields of a request that have recipients.
const RECIPIENT_FIELDS: [&str; 3] = ["to", "cc", "bcc"];

/// What [`ErasedAddress::remove_from`] has removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemovedRecipients {
    /// No recipient has the address.
    None,
    /// The message has other recipients.
    Some,
    /// It has no other recipient.
    All,
}

/// An address to erase, in the notations in which it may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasedAddress {
    /// The normalised form, of which the pseudonym is computed.
    pub key: AddressKey,
    /// All notations, in lower case.
    pub notations: Vec<String>,
}

impl From<&Address> for ErasedAddress {
    fn from(address: &Address) -> Self {
        let key = AddressKey::from(address);
        let mut notations = vec![key.as_str().to_owned()];
        if let Some((local, domain)) = key.as_str().rsplit_once('@')
            && !local.starts_with('"')
        {
            notations.push(format!("\"{local}\"@{domain}"));
        }
        let written = address.to_string().to_lowercase();
        if !notations.contains(&written) {
            notations.push(written);
        }
        Self { key, notations }
    }
}

impl ErasedAddress {
    /// Returns a regular expression of Postgres that finds the address in a text, also within JSON. A letter or digit before or
    /// after it makes another address of it; other characters may belong to the text around it, such as the hyphen in the
    /// idempotency key `welcome-ann@example.test`.
    pub fn pattern(&self) -> String {
        let mut notations: Vec<String> = self.notations.clone();
        notations.extend(
            self.notations
                .iter()
                .filter(|one| one.contains(['"', '\\']))
                .map(|one| one.replace('\\', "\\\\").replace('"', "\\\"")),
        );
        // Longer ones first: Postgres prefers the longest match anyway, and readers see what is meant.
        notations.sort_by_key(|one| std::cmp::Reverse(one.len()));
        let escaped: Vec<String> = notations.iter().map(|one| escape(one)).collect();
        format!("(?<![[:alnum:]])(?:{})(?![[:alnum:]])", escaped.join("|"))
    }

    /// Returns a regular expression of Postgres that finds the address as a whole in a list of addresses, such as a header field. It does
    /// not find `ann@example.test` in `jo-ann@example.test`.
    pub fn mailbox_pattern(&self) -> String {
        let escaped: Vec<String> = self.notations.iter().map(|one| escape(one)).collect();
        // The characters of a local part (RFC 5322, atext), and the dot.
        let before = r"[[:alnum:]!#$%&'*+/=?^_`{|}~.-]";
        format!("(?<!{before})(?:{})(?![[:alnum:].-])", escaped.join("|"))
    }

    /// Removes the address from the recipients of a message that is the body of a request (`to`, `cc` and `bcc`).
    pub fn remove_from(&self, message: &mut Map<String, Value>) -> RemovedRecipients {
        let (mut is_any_removed, mut is_any_left) = (false, false);
        for field in RECIPIENT_FIELDS {
            let mut mailboxes = match message.remove(field) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(mailboxes)) => mailboxes,
                Some(mailbox) => vec![mailbox],
            };
            let before = mailboxes.len();
            mailboxes.retain(|mailbox| !self.is_in(mailbox));
            is_any_removed |= mailboxes.len() < before;
            if !mailboxes.is_empty() {
                is_any_left = true;
                message.insert(field.to_owned(), Value::Array(mailboxes));
            }
        }
        match (is_any_removed, is_any_left) {
            (false, _) => RemovedRecipients::None,
            (true, true) => RemovedRecipients::Some,
            (true, false) => RemovedRecipients::All,
        }
    }

    /// Returns whether a mailbox has the address: `a@b`, `Name <a@b>` or `{"email", "name"}`.
    fn is_in(&self, mailbox: &Value) -> bool {
        let Some(text) = mailbox.as_str().or_else(|| mailbox.get("email")?.as_str()) else { return false };
        let inner = text.trim_end().strip_suffix('>').and_then(|text| text.rsplit_once('<'));
        let address = inner.map_or(text, |(_, address)| address);
        self.notations.contains(&address.trim().to_lowercase())
    }
}

/// Escapes a text for a regular expression of Postgres, in which a backslash makes any character literal that is not a letter or
/// digit.
fn escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut escaped, c| {
        if c.is_ascii() && !c.is_ascii_alphanumeric() {
            escaped.push('\\');
        }
        escaped.push(c);
        escaped
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn erased(address: &str) -> ErasedAddress {
        ErasedAddress::from(&address.parse::<Address>().unwrap())
    }

    #[test]
    fn every_notation_of_an_address_is_erased() {
        assert_eq!(erased("Ann@Example.test").notations, ["ann@example.test", "\"ann\"@example.test"]);
        assert_eq!(erased("\"Ann Lee\"@example.test").notations, ["\"ann lee\"@example.test"]);
        assert_eq!(erased("\"ann\"@example.test"), erased("ANN@example.test"));
    }

    #[test]
    fn pattern_escapes_everything_but_letters_and_digits() {
        let pattern = erased("a.b+c@x.test").pattern();
        assert!(pattern.contains(r"a\.b\+c\@x\.test") && pattern.contains(r#"\"a\.b\+c\"\@x\.test"#), "{pattern}");
        assert!(erased("\"a b\"@x.test").pattern().contains(r#"\\\"a\ b\\\"\@x\.test"#), "within JSON");
        assert!(erased("é@x.test").pattern().contains(r"é\@x\.test"));
    }

    #[test]
    fn address_is_removed_from_the_recipients_of_a_message() {
        let remove = |mut message: Value| {
            let removed = erased("ann@example.test").remove_from(message.as_object_mut().unwrap());
            (removed, message)
        };
        let others = json!({"to": "bo@example.test", "cc": ["joann@example.test"], "text": "for ann@example.test"});
        assert_eq!(remove(others).0, RemovedRecipients::None);
        for only in [
            json!("ANN@example.test"),
            json!(["Ann <ann@example.test>"]),
            json!({"email": "Ann@Example.test", "name": "Ann"}),
        ] {
            let (removed, left) = remove(json!({"to": only, "cc": null, "text": "Hi"}));
            assert_eq!((removed, left), (RemovedRecipients::All, json!({"text": "Hi"})));
        }
        let several = json!({"to": [{"email": "ann@example.test"}], "cc": "ann@example.test", "bcc": ["ann@example.test", "Bo <bo@example.test>"]});
        assert_eq!(remove(several), (RemovedRecipients::Some, json!({"bcc": ["Bo <bo@example.test>"]})));
    }

    #[test]
    fn missing_counts_are_zero() {
        assert_eq!(ErasedCounts::from_column(serde_json::json!({})), Some(ErasedCounts::default()));
        let stored = serde_json::to_value(ErasedCounts { messages: 3, ..ErasedCounts::default() }).unwrap();
        assert_eq!(ErasedCounts::from_column(stored).map(|counts| counts.messages), Some(3));
        assert_eq!(ErasedCounts::from_column(Value::Null), None);
    }

    #[test]
    fn phases_follow_each_other() {
        let mut phase = ErasurePhase::Suppressions;
        let mut count = 1;
        while let Some(next) = phase.next() {
            (phase, count) = (next, count + 1);
        }
        assert_eq!((phase, count), (ErasurePhase::Texts, ErasurePhase::ALL.len()));
        assert!(ErasurePhase::ALL.into_iter().all(|one| ErasurePhase::from_column(one.as_str()) == Some(one)));
    }
}
