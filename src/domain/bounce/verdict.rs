//! Decides whether a refusal within a transaction is temporary or permanent ([`verdict`]), and recognises refusals that
//! have another meaning. Pure.
//!
//! The reply code decides: 5xx is permanent, and everything else is temporary (RFC 5321 §4.2.1). The code alone is
//! ambiguous in some replies. An authentication code may be a request for credentials or TLS, or a server's private use
//! of the number. A reply about a limit on recipients is about the earlier recipients of the transaction, and a reply
//! about a limit on messages is about the earlier messages of the connection: neither refuses the current recipient or
//! message.

use super::Category;
use crate::domain::bounce;
use crate::domain::outcome::{Reply, Verdict};

/// Reply codes that ask for credentials or TLS (RFC 4954 §6, RFC 3207 §4).
const AUTH_CODES: [u16; 4] = [530, 534, 535, 538];
/// Details of the enhanced code `X.7.*` that ask for credentials or TLS.
const AUTH_DETAILS: [u16; 6] = [0, 8, 9, 10, 11, 12];
/// Words in replies that ask for credentials or TLS.
const AUTH_WORDS: [&str; 12] = [
    "authent",
    "auth ",
    "tls",
    "ssl",
    "encrypt",
    "log in",
    "login",
    "logon",
    "credential",
    "password",
    "username",
    "sasl",
];

/// Phrases in replies about a limit on the recipients of one transaction.
const RECIPIENT_LIMIT_WORDS: [&str; 17] = [
    "too many recipient",
    "too many rcpt",
    "too many envelope",
    "too many address",
    "too many destination",
    "too many invalid recipient",
    "too many unknown recipient",
    "recipients limit",
    "recipient limit",
    "reciplimit",
    "rcpt limit",
    "number of recipients",
    "number of rcpt",
    "recipients exceed",
    "recipient count",
    "maximum recipients",
    "max recipients",
];

/// Phrases in replies about a limit on messages.
const MESSAGE_LIMIT_WORDS: [&str; 8] = [
    "too many messages",
    "too many mails",
    "too many emails",
    "too many transactions",
    "too many deliveries",
    "maximum number of messages",
    "message limit",
    "messages per",
];
/// Words in replies that refer to one connection.
const CONNECTION_WORDS: [&str; 2] = ["session", "connection"];

/// Classifies a refusal of MAIL, RCPT, DATA or the final dot. A request for credentials or TLS is temporary, because it
/// does not concern the recipient. The same codes have other uses, such as Courier's `534 SIZE=Message too big.`.
pub fn verdict(reply: &Reply) -> Verdict {
    let code = reply.code.unwrap_or_default();
    if AUTH_CODES.contains(&code) && asks_for_auth(reply) { Verdict::Temporary } else { from_refusal_code(code) }
}

/// Classifies the code of a refusal at any stage. An unexpected 2xx or 3xx code is a temporary failure.
fn from_refusal_code(code: u16) -> Verdict {
    if (500..600).contains(&code) { Verdict::Permanent } else { Verdict::Temporary }
}

fn asks_for_auth(reply: &Reply) -> bool {
    match reply.enhanced {
        Some(code) if code.subject == 7 && AUTH_DETAILS.contains(&code.detail) => true,
        None if reply.text.trim().is_empty() => true,
        _ => has(reply, &AUTH_WORDS),
    }
}

/// Returns whether a reply to RCPT says that the transaction has reached the server's recipient limit, which does not
/// refuse this recipient (RFC 5321 §4.5.3.1.10). Call it only after an accepted RCPT.
pub fn is_recipient_limit(reply: &Reply) -> bool {
    if has(reply, &RECIPIENT_LIMIT_WORDS) {
        return true;
    }
    match (reply.code, reply.enhanced) {
        (_, Some(code)) => (code.subject, code.detail) == (5, 3),
        // The codes that RFC 5321 defines for this limit, unless the text has another meaning.
        (Some(452 | 552), None) => bounce::judge(reply).category == Category::Other,
        _ => false,
    }
}

/// Returns whether a reply to MAIL says that the connection has reached the server's message limit, so that the message
/// can be sent in a new connection.
pub fn is_session_limit(reply: &Reply) -> bool {
    has(reply, &MESSAGE_LIMIT_WORDS) && has(reply, &CONNECTION_WORDS)
}

/// Returns whether a refusal asks for TLS.
pub fn asks_for_tls(reply: &Reply) -> bool {
    let is_code = reply.enhanced.is_some_and(|code| code.subject == 7 && matches!(code.detail, 10 | 11));
    is_code || has(reply, &["tls", "ssl", "encrypt"])
}

fn has(reply: &Reply, words: &[&str]) -> bool {
    let text = reply.text.to_ascii_lowercase();
    words.iter().any(|word| text.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(code: u16, text: &str) -> Reply {
        Reply::from_lines(code, text.lines())
    }

    #[test]
    fn authentication_codes_are_classified_by_text() {
        for (code, text) in [
            (530, "5.7.0 Must issue a STARTTLS command first"),
            (530, "5.7.0 no"),
            (530, "5.7.1 Client was not authenticated"),
            (530, "Authentication required"),
            (530, ""),
            (534, "5.7.9 Application-specific password required"),
            (535, "5.7.8 Bad credentials"),
            (538, "Encryption required for requested authentication mechanism"),
        ] {
            assert_eq!(verdict(&reply(code, text)), Verdict::Temporary, "{code} {text}");
        }
        for (code, text) in [
            (534, "SIZE=Message too big."),
            (530, "5.1.1 no such mailbox"),
            (535, "sorry, no mailbox here by that name"),
            (550, "5.7.8 odd"),
        ] {
            assert_eq!(verdict(&reply(code, text)), Verdict::Permanent, "{code} {text}");
        }
        assert_eq!(verdict(&reply(451, "later")), Verdict::Temporary);
    }

    #[test]
    fn only_5xx_is_permanent() {
        assert_eq!(from_refusal_code(554), Verdict::Permanent);
        for code in [421, 451, 250, 354, 199, 600] {
            assert_eq!(from_refusal_code(code), Verdict::Temporary, "{code}");
        }
    }

    #[test]
    fn recipient_limit_is_recognised() {
        for (code, text) in [
            (452, "4.5.3 Error: too many recipients"),
            (452, ""),
            (552, "sorry"),
            (552, "5.5.3 no more"),
            (550, "Too many recipients"),
            (503, "5.5.0 too many RCPTs"),
            (550, "5.5.3 RESOLVER.ADR.RecipLimit; too many recipients"),
            (554, "maximum number of recipients reached"),
        ] {
            assert!(is_recipient_limit(&reply(code, text)), "{code} {text}");
        }
        for (code, text) in [
            (452, "4.2.2 mailbox full"),
            (452, "4.3.1 insufficient system storage"),
            (552, "mailbox is full"),
            (552, "5.2.2 over quota"),
            (552, "message size exceeds fixed limit"),
            (550, "5.1.1 unknown user"),
            (503, "5.5.1 bad sequence of commands"),
        ] {
            assert!(!is_recipient_limit(&reply(code, text)), "{code} {text}");
        }
    }

    #[test]
    fn session_limit_is_recognised() {
        assert!(is_session_limit(&reply(450, "4.7.1 Too many messages in this session")));
        assert!(is_session_limit(&reply(550, "maximum number of messages per connection reached")));
        assert!(!is_session_limit(&reply(450, "4.7.1 Too many messages, slow down")));
        assert!(!is_session_limit(&reply(450, "4.7.1 too many connections")));
    }
}
