//! The bounces that mail servers wrote before RFC 3464, and some still do, told by their words.

/// Formats: the name of the rule, and words of which any tells it, in lower case and on one line. The first that
/// fits counts.
pub(super) const FORMATS: [(&str, &[&str]); 16] = [
    ("qmail", &["this is the qmail-send program", "this is the mail delivery agent at", "hi. this is the"]),
    ("postfix", &["this is the postfix program at", "this is the mail system at host"]),
    ("gmx", &["the following address failed:"]),
    (
        "exim",
        &[
            "this message was created automatically by mail delivery software",
            "this message was created automatically by the smtp relay",
            "a message that you sent could not be delivered to",
        ],
    ),
    (
        "sendmail",
        &[
            "----- the following addresses had",
            "----- transcript of session follows",
            "the original message was received at",
        ],
    ),
    (
        "exchange",
        &[
            "did not reach some or all of the intended recipients",
            "delivery has failed to these recipients",
            "couldn't be delivered to the following recipients",
            "your message wasn't delivered to",
            "your message couldn't be delivered",
            "the following recipient(s) could not be reached",
            "the following recipient(s) cannot be reached",
            "undeliverable to the following",
        ],
    ),
    (
        "gmail",
        &[
            "delivery to the following recipient failed",
            "delivery to the following recipients failed",
            "address not found",
            "google tried to deliver your message",
            "message not delivered there was a problem",
            "delivery to the following recipient has been delayed",
        ],
    ),
    (
        "yahoo",
        &[
            "sorry, we were unable to deliver your message to the following address",
            "unable to deliver message to the following address",
        ],
    ),
    ("courier", &["undelivered mail", "this is a delivery status notification from"]),
    ("domino", &["your message subject:", "your document:", "was not delivered to:"]),
    ("ses", &["an error occurred while trying to deliver the mail to the following recipients"]),
    ("aol", &["your mail to the following recipients could not be delivered"]),
    ("qq", &["抱歉，您的邮件被退回来了", "退信", "sorry, your mail has been returned"]),
    (
        "yandex",
        &[
            "this is the mail delivery system at yandex",
            "this is the mail system at yandex",
            "сообщение не было доставлено",
        ],
    ),
    (
        "mailru",
        &["это письмо создано автоматически сервером mail.ru", "this message was created automatically by mail.ru"],
    ),
    (
        "mailer",
        &[
            "could not be delivered to the following",
            "the following message could not be delivered",
            "delivery failed to the following",
            "failed to deliver to",
            "your message could not be delivered",
            "unable to deliver your message",
            "the following addresses had",
            "permanent fatal errors",
            "failed recipient",
            "undeliverable message",
        ],
    ),
];

/// How subjects of bounces read, in lower case.
pub(super) const SUBJECTS: [&str; 28] = [
    "undeliver",
    "delivery status notification",
    "delivery failure",
    "delivery failed",
    "delivery has failed",
    "delivery error",
    "mail delivery",
    "failure notice",
    "returned mail",
    "mail returned",
    "return mail",
    "non-delivery",
    "nondeliverable",
    "delivery report",
    "delivery notification",
    "message not delivered",
    "mail system error",
    "mail error",
    "delayed mail",
    "delivery delay",
    "message status",
    "could not be delivered",
    "unzustellbar",
    "zustellung",
    "non remis",
    "mancata consegna",
    "退信",
    "недоставлен",
];

/// The local parts that servers send bounces from.
pub(super) const SENDERS: [&str; 7] =
    ["mailer-daemon", "postmaster", "mail-daemon", "maildaemon", "mailerdaemon", "mdaemon", "microsoftexchange"];

/// Words of a delay.
pub(super) const DELAYS: [&str; 14] = [
    "warning message only",
    "will be retried",
    "still trying",
    "will keep trying",
    "will continue to try",
    "not yet been delivered",
    "not been delivered yet",
    "has been delayed",
    "is delayed",
    "delivery delayed",
    "do not need to resend",
    "delivery incomplete",
    "delivery attempts will continue",
    "temporarily delayed",
];

/// Lines that a returned mail is announced by.
pub(super) const SEPARATORS: [&str; 19] = [
    "--- below this line is a copy of the message",
    "------ this is a copy of",
    "--- the header of the original message",
    "----- original message -----",
    "----- original message follows",
    "original message headers:",
    "----- message header follows -----",
    "----- message headers follow",
    "message headers follow",
    "--- original message ---",
    "--- returned message ---",
    "----- unsent message follows",
    "--- mail headers ---",
    "the original message follows",
    "--- start of returned",
    "original message follows",
    "received: from",
    "return-path: <",
    "---------- forwarded message",
];

/// What may stand before an address on its line.
pub(super) const LABELS: [&str; 9] = [
    "to",
    "recipient",
    "mailto",
    "recipient address",
    "final recipient",
    "failed recipient",
    "user",
    "for",
    "original recipient",
];
