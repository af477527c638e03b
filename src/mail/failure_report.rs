//! Writes the report by which the sender of a message learns that it could not be passed on: a delivery status notification
//! (RFC 3464) in a `multipart/report` (RFC 6522), with the header of the message.
//!
//! The report is ASCII, except for addresses that are not, with short lines, so that every server accepts it. `Date` and `Message-ID` are added when it is sent.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use memchr::memmem;

use crate::domain::address::Address;

/// Maximum bytes of the message's header that are returned.
const MAX_HEADER: usize = 32 << 10;
/// Maximum length of a line (RFC 5322 §2.1.1).
const MAX_LINE: usize = 998;
/// Maximum characters of the server's reply.
const MAX_REPLY: usize = 700;

/// What a report says.
#[derive(Debug, Clone)]
pub struct FailureReport<'a> {
    /// The name of this host.
    pub hostname: &'a str,
    /// The address in `From`.
    pub from: &'a Address,
    /// The sender of the message, to whom the report goes.
    pub to: &'a Address,
    /// The recipient that failed.
    pub recipient: &'a str,
    /// When the message was received.
    pub received_at: DateTime<Utc>,
    /// Whether the message expired after temporary failures; otherwise it was refused.
    pub is_expired: bool,
    /// The code of the last reply; `None` if the last error was found by this server, such as a failed connection.
    pub code: Option<i16>,
    /// The enhanced status code of the last reply, such as `5.1.1`.
    pub enhanced: Option<&'a str>,
    /// The text of the last reply.
    pub reply: Option<&'a str>,
    /// The server that was tried last.
    pub server: Option<&'a str>,
    /// When it was tried last.
    pub last_attempt_at: Option<DateTime<Utc>>,
    /// The `Message-ID` of the message, without angle brackets.
    pub message_id: Option<&'a str>,
    /// The message, or its beginning.
    pub message: &'a [u8],
    /// A text that occurs nowhere else, of which the boundary is made.
    pub unique: &'a str,
}

impl FailureReport<'_> {
    /// Returns the report as finished MIME.
    pub fn write(&self) -> Vec<u8> {
        let mut out = String::new();
        let boundary = format!("=_report_{}", self.unique);
        // Writing to a string does not fail.
        let _ = self.write_parts(&mut out, &boundary);
        out.into_bytes()
    }

    fn write_parts(&self, out: &mut String, boundary: &str) -> std::fmt::Result {
        write!(out, "From: Mail Delivery System <{}>\r\nTo: <{}>\r\n", self.from, self.to)?;
        out.push_str("Subject: Undelivered message returned to sender\r\nAuto-Submitted: auto-replied\r\n");
        if let Some(id) = self.message_id.filter(|id| is_id(id)) {
            write!(out, "In-Reply-To: <{id}>\r\nReferences: <{id}>\r\n")?;
        }
        write!(
            out,
            "MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"{boundary}\"\r\n\r\n\
             --{boundary}\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n"
        )?;
        self.write_text(out)?;
        write!(out, "\r\n--{boundary}\r\nContent-Type: message/delivery-status\r\n\r\n")?;
        self.write_status(out)?;
        write!(out, "\r\n--{boundary}\r\nContent-Type: text/rfc822-headers\r\n\r\n")?;
        write_header(out, self.message);
        write!(out, "\r\n--{boundary}--\r\n")
    }

    fn write_text(&self, out: &mut String) -> std::fmt::Result {
        let why = if self.is_expired {
            "could not be delivered in time, and no further attempts are made"
        } else {
            "was refused by the server of the recipient"
        };
        write!(
            out,
            "This is the mail system at {}.\r\n\r\nYour message to\r\n\r\n  <{}>\r\n\r\n{why}.\r\n",
            ascii(self.hostname, MAX_LINE),
            ascii(self.recipient, 320)
        )?;
        match self.diagnostic() {
            Some(diagnostic) => write!(out, "The server said:\r\n\r\n  {}\r\n", folded(&diagnostic, "\r\n  ")),
            None => Ok(()),
        }
    }

    fn write_status(&self, out: &mut String) -> std::fmt::Result {
        write!(
            out,
            "Reporting-MTA: dns; {}\r\nArrival-Date: {}\r\n\r\nFinal-Recipient: {}\r\nAction: failed\r\nStatus: {}\r\n",
            ascii(self.hostname, MAX_LINE),
            date(self.received_at),
            typed_address(self.recipient),
            self.status()
        )?;
        if let Some(server) = self.server {
            write!(out, "Remote-MTA: dns; {}\r\n", ascii(server, 255))?;
        }
        if let Some(diagnostic) = self.diagnostic() {
            write!(out, "Diagnostic-Code: smtp; {}\r\n", folded(&diagnostic, "\r\n "))?;
        }
        match self.last_attempt_at {
            Some(at) => write!(out, "Last-Attempt-Date: {}\r\n", date(at)),
            None => Ok(()),
        }
    }

    /// Returns the status code: that of a permanent failure, or 4.4.7 if the message expired.
    fn status(&self) -> &str {
        let permanent = self.enhanced.filter(|code| code.starts_with("5."));
        if self.is_expired { "4.4.7" } else { permanent.unwrap_or("5.0.0") }
    }

    /// Returns the server's last reply on one line. Errors that this server found are left out: their texts are for the operator, and
    /// may contain addresses inside the network.
    fn diagnostic(&self) -> Option<String> {
        let code = self.code?.to_string();
        let text = ascii(self.reply?, MAX_REPLY);
        let parts = [Some(code.as_str()), self.enhanced, Some(text.as_str())];
        Some(parts.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// Appends the header of a message. Characters that are not ASCII are replaced, and long lines are cut.
fn write_header(out: &mut String, message: &[u8]) {
    let end = memmem::find(message, b"\r\n\r\n").map_or(message.len(), |end| end + 2);
    let header = &message[..end.min(MAX_HEADER)];
    for line in header.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\r\n")) {
        let line = &line[..line.len() - 2];
        out.extend(line.iter().take(MAX_LINE).map(|byte| printable(char::from(*byte))));
        out.push_str("\r\n");
    }
}

/// Returns a text on one line, in ASCII, of at most `max` characters.
fn ascii(text: &str, max: usize) -> String {
    text.chars().take(max).map(printable).collect::<String>().trim().to_owned()
}

fn printable(c: char) -> char {
    match c {
        ' '..='~' => c,
        '\t' | '\r' | '\n' => ' ',
        _ => '?',
    }
}

/// Folds a line at spaces, so that lines are short.
fn folded(text: &str, line_end: &str) -> String {
    let (mut out, mut length) = (String::new(), 0);
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        if length > 0 && length + word.len() > 70 {
            out.push_str(line_end);
            length = 0;
        } else if length > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += word.len();
    }
    out
}

/// Returns an address with its type (RFC 3464 §2.3.2, RFC 6533 §3).
fn typed_address(address: &str) -> String {
    if address.is_ascii() {
        return format!("rfc822; {}", ascii(address, 320));
    }
    let escape = |c: char| match c {
        '!'..='~' if c != '\\' && c != '+' && c != '=' => c.to_string(),
        _ => format!("\\x{{{:X}}}", u32::from(c)),
    };
    format!("utf-8; {}", address.chars().take(320).map(escape).collect::<String>())
}

/// Returns whether a text can be in a field of message ids.
fn is_id(id: &str) -> bool {
    (3..=900).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>'))
}

fn date(at: DateTime<Utc>) -> String {
    at.format("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    fn at() -> DateTime<Utc> {
        DateTime::from_timestamp_secs(1_790_000_000).unwrap()
    }

    static ADDRESSES: LazyLock<[Address; 2]> =
        LazyLock::new(|| ["MAILER-DAEMON@acme.test", "ann@example.test"].map(|address| address.parse().unwrap()));

    fn written<'a>(change: impl FnOnce(&mut FailureReport<'a>)) -> String {
        let [from, to] = &*ADDRESSES;
        let mut report = FailureReport {
            hostname: "mail.acme.test",
            from,
            to,
            recipient: "bob@acme.test",
            received_at: at(),
            is_expired: false,
            code: Some(550),
            enhanced: Some("5.1.1"),
            reply: Some("No such\nmailbox"),
            server: Some("inside.acme.test"),
            last_attempt_at: Some(at()),
            message_id: Some("m1@example.test"),
            message: b"Subject: Hello\r\nX: 1\r\n\r\nBody\r\n",
            unique: "7",
        };
        change(&mut report);
        String::from_utf8(report.write()).unwrap()
    }

    #[test]
    fn report_has_three_parts() {
        let expected = "From: Mail Delivery System <MAILER-DAEMON@acme.test>\r\nTo: <ann@example.test>\r\n\
            Subject: Undelivered message returned to sender\r\nAuto-Submitted: auto-replied\r\n\
            In-Reply-To: <m1@example.test>\r\nReferences: <m1@example.test>\r\nMIME-Version: 1.0\r\n\
            Content-Type: multipart/report; report-type=delivery-status;\r\n boundary=\"=_report_7\"\r\n\r\n\
            --=_report_7\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n\
            This is the mail system at mail.acme.test.\r\n\r\nYour message to\r\n\r\n  <bob@acme.test>\r\n\r\n\
            was refused by the server of the recipient.\r\nThe server said:\r\n\r\n  550 5.1.1 No such mailbox\r\n\r\n\
            --=_report_7\r\nContent-Type: message/delivery-status\r\n\r\n\
            Reporting-MTA: dns; mail.acme.test\r\nArrival-Date: Mon, 21 Sep 2026 14:13:20 +0000\r\n\r\n\
            Final-Recipient: rfc822; bob@acme.test\r\nAction: failed\r\nStatus: 5.1.1\r\n\
            Remote-MTA: dns; inside.acme.test\r\nDiagnostic-Code: smtp; 550 5.1.1 No such mailbox\r\n\
            Last-Attempt-Date: Mon, 21 Sep 2026 14:13:20 +0000\r\n\r\n\
            --=_report_7\r\nContent-Type: text/rfc822-headers\r\n\r\nSubject: Hello\r\nX: 1\r\n\r\n--=_report_7--\r\n";
        assert_eq!(written(|_| {}), expected);
    }

    #[test]
    fn expired_message_has_the_status_of_its_expiry() {
        let report = written(|report| {
            (report.is_expired, report.code, report.enhanced, report.reply) = (true, None, None, None);
            (report.server, report.last_attempt_at, report.recipient) = (None, None, "j\u{f6}@acme.test");
        });
        assert!(report.contains("Status: 4.4.7\r\n") && !report.contains("Diagnostic-Code"), "{report}");
        assert!(report.contains("Final-Recipient: utf-8; j\\x{F6}@acme.test\r\n"), "{report}");
        assert!(report.contains("could not be delivered in time"));
    }

    #[test]
    fn errors_found_by_this_server_are_not_shown() {
        let report = written(|report| {
            (report.is_expired, report.code, report.enhanced) = (true, None, None);
            report.reply = Some("10.0.0.7:25: connection refused");
        });
        assert!(!report.contains("10.0.0.7") && !report.contains("The server said"), "{report}");
    }

    proptest! {
        #[test]
        fn anything_in_the_message_and_reply_stays_in_its_place(
            reply in any::<String>(), message in prop::collection::vec(any::<u8>(), 0..400), id in any::<String>(),
        ) {
            let report = written(|report| {
                (report.reply, report.message, report.message_id) = (Some(reply.as_str()), message.as_slice(), Some(id.as_str()));
            });
            prop_assert!(report.is_ascii());
            prop_assert!(!report.replace("\r\n", "").contains(['\r', '\n']));
            let lines: Vec<&str> = report.split("\r\n").collect();
            prop_assert!(lines.iter().all(|line| line.len() <= 998));
            prop_assert_eq!(lines.iter().filter(|line| line.starts_with("Status: ")).count(), 1);
        }
    }
}
