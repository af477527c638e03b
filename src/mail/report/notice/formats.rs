//! Phrases that identify bounces that are not in the format of RFC 3464.

/// Formats: the name of each format's rule, and the phrases that identify the format, in lower case and on one line.
/// The first match is used.
pub(in crate::mail::report) const FORMATS: [(&str, &[&str]); 24] = [
    (
        "qmail",
        &[
            "this is the qmail-send program",
            "this is the mail delivery agent at",
            "hi. this is the",
            "does not like recipient.",
        ],
    ),
    ("opensmtpd", &["this is the mailer-daemon, please do not reply"]),
    ("james", &["error message below:", "this is the james mail server"]),
    ("notes", &["------- failure reasons"]),
    ("mailmarshal", &["the following recipients were affected"]),
    ("surfcontrol", &["a transcript of the attempts to send the message follows"]),
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
            "did not reach the following recipient",
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
            "wasn't able to deliver the following message",
        ],
    ),
    ("courier", &["undelivered mail", "this is a delivery status notification from"]),
    ("domino", &["your message subject:", "your document:", "was not delivered to:"]),
    ("ses", &["an error occurred while trying to deliver the mail to the following recipients"]),
    ("aol", &["your mail to the following recipients could not be delivered"]),
    ("qq", &["抱歉，您的邮件被退回来了", "退信", "sorry, your mail has been returned", "bounce reason: the recipient"]),
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
    ("dovecot", &["your message was automatically rejected by dovecot"]),
    ("comsat", &["a copy of your message is being returned, because"]),
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
            "your mail was not delivered to",
            "could not be delivered to:",
            "rejected recipient <",
            "this is the mailer daemon program at",
            "able to deliver your mail to:",
            "unable to deliver message to",
        ],
    ),
    ("mailer", &FOREIGN_FAILURES),
];

/// Phrases of failures in languages other than English, in lower case.
pub(in crate::mail::report) const FOREIGN_FAILURES: [&str; 28] = [
    "送信できませんでした",
    "配信できませんでした",
    "配送できませんでした",
    "届けられませんでした",
    "届けることができませんでした",
    "お届けできませんでした",
    "配達できませんでした",
    "无法投递",
    "無法投遞",
    "未能投递",
    "konnte nicht zugestellt werden",
    "konnten nicht zugestellt werden",
    "konnte nicht übermittelt werden",
    "n'a pas pu être remis",
    "n'a pas été remis",
    "n'a pu être délivré",
    "n'ont pas pu être remis",
    "no se pudo entregar",
    "no se ha podido entregar",
    "non è stato recapitato",
    "impossibile recapitare",
    "não pôde ser entregue",
    "não foi entregue",
    "не удалось доставить",
    "не может быть доставлено",
    "kon niet worden afgeleverd",
    "kunde inte levereras",
    "nie można dostarczyć",
];

/// Phrases of [`FORMATS`] that name the program, but do not say that a delivery failed: the program also sends
/// receipts, and other programs use its phrases.
pub(in crate::mail::report) const INTRODUCTIONS: [&str; 20] = [
    "this is the qmail-send program",
    "this is the mail delivery agent at",
    "hi. this is the",
    "this is the mailer-daemon, please do not reply",
    "this is the james mail server",
    "this is the postfix program at",
    "this is the mail system at host",
    "this message was created automatically by mail delivery software",
    "this message was created automatically by the smtp relay",
    "----- transcript of session follows",
    "----- the following addresses had",
    "the following addresses had",
    "the original message was received at",
    "this is a delivery status notification from",
    "your message subject:",
    "your document:",
    "this is the mail delivery system at yandex",
    "this is the mail system at yandex",
    "this message was created automatically by mail.ru",
    "this is the mailer daemon program at",
];

/// Phrases in the subjects of bounces, in lower case.
pub(in crate::mail::report) const SUBJECTS: [&str; 72] = [
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
    "failed mail",
    "mail failed",
    "mail failure",
    "failed delivery",
    "fail to deliver",
    "failure delivery",
    "unable to deliver",
    "mail not delivered",
    "not been delivered",
    "delivery problem",
    "delivery status",
    "user unknown",
    "processing error",
    "error sending your mail",
    "message you sent blocked",
    "article from",
    "loop alert",
    "メールエラー",
    "エラーメール",
    "エラー通知",
    "配信エラー",
    "配信不能",
    "配送エラー",
    "配達不能",
    "送信エラー",
    "送信失敗",
    "送信できません",
    "配信できません",
    "届きません",
    "nicht zugestellt",
    "échec de la remise",
    "no entregado",
    "não entregue",
    "投递失败",
    "доставк",
    "system bounce",
    "bounce notification",
    "bounced mail",
    "bounced message",
    "recipient does not exist",
    "recipient not found",
    "recipient unknown",
    "unknown recipient",
    "user does not exist",
];

/// Local parts of the addresses from which servers send bounces.
pub(in crate::mail::report) const SENDERS: [&str; 9] = [
    "mailer-daemon",
    "postmaster",
    "post_master",
    "mail.delivery.system",
    "mail-daemon",
    "maildaemon",
    "mailerdaemon",
    "mdaemon",
    "microsoftexchange",
];

/// Lines that announce a returned message.
pub(in crate::mail::report) const SEPARATORS: [&str; 33] = [
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
    "------- returned message",
    "-------original message",
    "----- original mail",
    "below is a copy of the original message",
    "---below this line is a copy",
    "--------returned mail follows",
    "--------unsent message below",
    "|------------------------- message text follows",
    "original mail as follows",
    "original message as received is as follows",
    "a copy of the original message below this line",
    "original message details:",
    "included is a copy of the message header",
    "============ failed message follows",
];

/// Text that may precede an address on its line.
pub(in crate::mail::report) const LABELS: [&str; 25] = [
    "to",
    "recipient",
    "mailto",
    "recipient address",
    "final recipient",
    "failed recipient",
    "user",
    "for",
    "original recipient",
    "rcpt to",
    "addressed to",
    "intended recipient",
    "failed address",
    "address",
    "could not be delivered to",
    "recipients",
    "the recipient",
    "宛先",
    "あて先",
    "送信先",
    "宛先アドレス",
    "受信者",
    "收件人",
    "收件人地址",
    "empfänger",
];

/// Phrases that announce the failed recipients. Addresses above such a phrase are not failed recipients.
pub(in crate::mail::report) const ANNOUNCEMENTS: [&str; 14] = [
    "did not reach the following recipient",
    "could not be reached:",
    "cannot be reached:",
    "was not delivered to:",
    "not delivered to the following",
    "could not be delivered to the following",
    "could not be delivered to:",
    "delivered to the following recipients:",
    "delivery to the following recipient",
    "had permanent fatal errors",
    "recipients were affected",
    "failed addresses follow",
    "the following address",
    "following recipients failed",
];

/// Phrases that occur only in reports of failures.
pub(in crate::mail::report) const FAILURES: [&str; 43] = [
    "undeliver",
    "not be delivered",
    "not been delivered",
    "not delivered",
    "n't be delivered",
    "n't delivered",
    "unable to deliver",
    "able to deliver",
    "delivery fail",
    "delivery to the following recipients failed",
    "delivery to the following recipient failed",
    "failed to deliver",
    "failed permanently",
    "has failed",
    "could not send",
    "not be sent",
    "failure",
    "failed address",
    "fatal error",
    "permanent error",
    "did not reach",
    "not be reached",
    "user unknown",
    "unknown user",
    "no such user",
    "not found",
    "does not exist",
    "rejected",
    "refused",
    "returned",
    "bounced",
    "mailbox is full",
    "mailbox full",
    "over quota",
    "not accept",
    "delivery problems",
    "will be retried",
    "encountered an error",
    "unknown host",
    "did not receive this message",
    "unsuccessful",
    "not successfully",
    "not be successfully",
];

/// Words before addresses that are not failed recipients.
pub(in crate::mail::report) const NOT_ABOUT: [&str; 16] = [
    "from",
    "subject",
    "reply-to",
    "sender",
    "id",
    "message-id",
    "contact",
    "postmaster",
    "at",
    "support",
    "help",
    "cc",
    "return-path",
    "errors-to",
    "mailto",
    "list",
];

/// Words that negate the phrase after them.
const NEGATIONS: [&str; 14] =
    ["no", "not", "never", "nicht", "ne", "pas", "non", "não", "nao", "niet", "inte", "ikke", "nie", "не"];

/// Returns whether a text in lower case contains one of the phrases, not negated (`no se entregó`) and not within a
/// word (`unsuccessful delivery`).
pub(in crate::mail::report) fn states(text: &str, phrases: &[&str]) -> bool {
    let is_negated = |before: &str| {
        let word = before.trim_end().rsplit(char::is_whitespace).next().unwrap_or_default();
        before.ends_with(char::is_whitespace) && NEGATIONS.contains(&word)
    };
    let is_own = |before: &str| !before.ends_with(|c: char| c.is_ascii_alphabetic()) && !is_negated(before);
    phrases.iter().any(|words| text.match_indices(words).any(|(at, _)| is_own(&text[..at])))
}

/// Returns whether a text in lower case contains a phrase of a failure.
pub(in crate::mail::report) fn states_failure(text: &str) -> bool {
    FAILURES.iter().chain(&FOREIGN_FAILURES).any(|words| text.contains(words))
}

/// Returns the name of the format that a text in lower case has, and whether its phrases say that a delivery failed.
pub(in crate::mail::report) fn format(text: &str) -> Option<(&'static str, bool)> {
    let found = |words: &&&str| text.contains(**words);
    let (name, _) = FORMATS.iter().find(|(_, phrases)| phrases.iter().any(|words| found(&words)))?;
    let all = FORMATS.iter().flat_map(|(_, phrases)| phrases.iter());
    Some((*name, all.filter(found).any(|words| !INTRODUCTIONS.contains(words))))
}
