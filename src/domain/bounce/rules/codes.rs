//! Rules for ambiguous texts: weak phrases, then enhanced codes (RFC 3463, 7372, 7504, 7505 and those of Exchange
//! Online), then phrases without a clear reason and reply codes.

use super::Rule;
use crate::domain::bounce::BounceType::{Block, Hard, Soft, Undetermined};
use crate::domain::bounce::Category::{
    Authentication, BadAddress, BadDomain, Blocklist, Dns, Expired, Format, HarmfulContent, MailboxDisabled,
    MailboxFull, Moved, Other, Policy, Protocol, RateLimit, RelayDenied, Reputation, Restricted, Routing,
    SenderRejected, Size, SpamContent, System, Tls, UnknownUser, Unreachable,
};

/// Rules for weak phrases. They come before the codes, so that a refusal with 5.1.1 for another reason does not
/// suppress the address.
pub(super) const WEAK_PHRASES: &[Rule] = &[
    Rule::new("hint-spam", Block, SpamContent).words(&["spam", "unsolicited", "junk"]).without(&["spamtrap"]),
    Rule::new("hint-policy", Block, Policy)
        .words(&[
            "policy",
            "policies",
            "prohibited",
            "prohibition",
            "access denied",
            "denied by",
            "permission denied",
            "blocked",
            "rejected by",
            "rejected due to",
            "rejectmessage",
            "ph01",
            "refused to talk",
            "not permitted",
            "not allowed",
            "administrator",
            "not accepted",
            "security",
            "not authorized",
            "unwelcome",
            "not welcome",
            "message refused",
            "message rejected",
            "mail rejected",
            "mail refused",
            "refused by",
            "forbidden",
            "abuse",
            "local_scan",
            "access rule",
        ])
        .without(&["mailbox name"]),
    // A code inside the text is the reply of another server, to which this server relays.
    Rule::new("code-in-text", Hard, UnknownUser).words(&["550 5.1.1", "550-5.1.1", "#5.1.1"]),
];

/// Rules for enhanced codes.
pub(super) const ENHANCED: &[Rule] = &[
    Rule::new("x.1.1", Hard, UnknownUser).enhanced(&[(1, 1, 1)]),
    Rule::new("x.1.2", Hard, BadDomain).enhanced(&[(1, 2, 2), (1, 10, 10), (4, 4, 4), (4, 310, 310)]),
    Rule::new("x.1.3", Hard, BadAddress).enhanced(&[(1, 0, 0), (1, 3, 4)]),
    Rule::new("x.1.6", Hard, Moved).enhanced(&[(1, 6, 6)]),
    Rule::new("x.1.8", Block, SenderRejected).enhanced(&[(1, 7, 9), (7, 27, 27)]),
    Rule::new("x.2.1", Hard, MailboxDisabled).enhanced(&[(2, 1, 1)]).without(&["tempor", "try again", "try later"]),
    Rule::new("x.2.2", Soft, MailboxFull).enhanced(&[(2, 2, 2)]),
    Rule::new("x.2.3", Soft, Size).enhanced(&[(2, 3, 3), (3, 4, 4)]),
    Rule::new("x.3", Soft, System).enhanced(&[(3, 0, 3), (3, 5, 999), (2, 4, 4), (4, 5, 5), (4, 0, 0)]),
    Rule::new("x.4.1", Soft, Unreachable).enhanced(&[(4, 1, 2), (4, 313, 315), (4, 317, 318)]),
    Rule::new("x.4.3", Soft, Dns).enhanced(&[(4, 3, 3), (4, 311, 312)]),
    Rule::new("x.4.6", Soft, Routing).enhanced(&[(4, 6, 6), (4, 14, 14)]),
    Rule::new("x.4.7", Soft, Expired).enhanced(&[(4, 7, 7), (4, 300, 300), (4, 316, 316)]),
    Rule::new("x.5.3", Soft, RateLimit).enhanced(&[(5, 3, 3), (7, 28, 28), (2, 121, 122), (7, 232, 233)]),
    Rule::new("x.6", Block, Format).enhanced(&[(6, 0, 999)]),
    Rule::new("x.7.2", Block, Restricted).enhanced(&[(7, 2, 2), (7, 17, 19), (7, 124, 136)]),
    Rule::new("x.7.7", Block, Authentication).enhanced(&[
        (7, 7, 7),
        (7, 20, 26),
        (7, 29, 29),
        (7, 509, 509),
        (7, 515, 515),
    ]),
    Rule::new("x.7.8", Block, RelayDenied).enhanced(&[(7, 8, 9), (7, 13, 13), (7, 54, 54), (7, 64, 64)]),
    Rule::new("x.7.10", Soft, Tls).enhanced(&[(7, 10, 11), (7, 30, 30), (7, 320, 325)]),
    Rule::new("outlook-listed", Block, Blocklist).enhanced(&[(7, 606, 649)]),
    Rule::new("outlook-reputation", Block, Reputation).enhanced(&[(7, 501, 508), (7, 510, 514), (7, 700, 750)]),
    Rule::new("gmail-harmful", Block, HarmfulContent).words(&["blockedmessage"]).enhanced(&[(7, 0, 0)]),
    Rule::new("x.7.1", Block, Policy).enhanced(&[(7, 0, 999)]),
];

/// Rules for what the codes above leave open: phrases without a clear reason, then protocol errors and reply codes.
pub(super) const REST: &[Rule] = &[
    // RFC 5321 §4.2.2 uses this phrase for 550, for a missing mailbox or for policy, so it does not suppress the
    // address.
    Rule::new("rfc5321-550", Hard, Other)
        .words(&[
            "action not taken: mailbox unavailable",
            "action not taken: mailbox is unavailable",
            "mailbox @ unavailable",
            "mailbox @ is unavailable",
            "user account is unavailable",
            "user account unavailable",
        ])
        .without(&["tempor", "try again", "try later"])
        .codes(&[(550, 550)]),
    // The reply does not give a reason, so it does not suppress the address.
    Rule::new("recipient-rejected", Hard, Other)
        .words(&["recipient rejected", "recipient is rejected", "recipient was rejected"])
        .codes(&[(550, 550)]),
    Rule::new("words-system", Soft, System).words(&[
        "system storage",
        "system error",
        "local error",
        "internal error",
        "server error",
        "service unavailable",
        "service not available",
        "service is unavailable",
        "temporarily unavailable",
        "try again later",
        "out of memory",
        "disk full",
        "disk space",
        "space left on device",
        "not accepting messages",
        "system not accepting",
        "queue file write",
        "resources",
        "configuration error",
        "overload",
        "too busy",
        "busy",
        "shutting down",
        "maintenance",
        "temporary failure",
        "local delivery failed",
        "local problem",
        "try later",
        "antivirus",
        "anti-virus",
        "cant create",
        "cannot open",
        "child status",
        "exit code",
        "return code",
        "command failed",
        "command died",
        "pipe to",
        "read-only file system",
        "read-only filesystem",
        "input/output error",
        "i/o error",
        "stale nfs",
        "stale file handle",
        "no such file or directory",
        "too many open files",
        "cannot allocate memory",
        "cannot fork",
        "unable to fork",
        "unable to chdir",
        "unable to open",
        "could not lock",
        "unable to lock",
        "locked by another",
    ]),
    Rule::new("words-protocol", Undetermined, Protocol).words(&[
        "syntax error",
        "bad sequence",
        "command not",
        "unrecognized command",
        "command unrecognized",
        "not implemented",
        "unimplemented",
        "protocol error",
        "unknown command",
    ]),
    Rule::new("x.5", Undetermined, Protocol).enhanced(&[(5, 1, 999)]),
    Rule::new("500", Undetermined, Protocol).codes(&[(500, 504), (555, 555)]),
    Rule::new("530", Block, RelayDenied).codes(&[(530, 538)]),
    Rule::new("541", Block, Policy).codes(&[(541, 541)]),
    Rule::new("551", Hard, Moved).codes(&[(551, 551)]),
    Rule::new("552", Soft, Other).codes(&[(552, 552)]),
    Rule::new("553", Undetermined, BadAddress).codes(&[(553, 553)]),
    Rule::new("556", Hard, BadDomain).codes(&[(556, 556)]),
    Rule::new("4xx", Soft, Other).codes(&[(400, 499)]),
];
