//! The messages that a recipient's server, provider or mailbox sends after it has accepted a message: a bounce
//! (RFC 3464), a complaint (RFC 5965) or an automatic reply (RFC 3834). Pure.

use chrono::{DateTime, Utc};

use crate::domain::address::Address;
use crate::domain::outcome::EnhancedCode;
use crate::domain::simulator::DOMAIN;

/// Maximum size of the original header in a report, in bytes.
const MAX_HEADER: usize = 64 << 10;
/// The boundary of the parts. Lines of a header do not start with it.
const BOUNDARY: &str = "=_simulated-report";

/// The message that a report is about.
#[derive(Debug)]
pub(super) struct OriginalMessage<'a> {
    /// The recipient.
    pub to: &'a Address,
    /// The envelope's sender.
    pub return_path: Option<&'a Address>,
    /// The message as sent.
    pub mime: &'a [u8],
}

impl OriginalMessage<'_> {
    /// Returns the header without the empty line after it. A header above [`MAX_HEADER`] is truncated after a line.
    fn header(&self) -> String {
        let end = memchr::memmem::find(self.mime, b"\r\n\r\n").unwrap_or(self.mime.len());
        let header = self.mime.get(..end.min(MAX_HEADER)).unwrap_or_default();
        let cut = if end > MAX_HEADER { memchr::memmem::rfind(header, b"\r\n") } else { None };
        String::from_utf8_lossy(header.get(..cut.unwrap_or(header.len())).unwrap_or_default()).into_owned()
    }

    /// Returns the value of a header field, without line ends.
    fn field(&self, name: &str) -> Option<String> {
        let header = self.header();
        let mut lines = header.split("\r\n").skip_while(|line| {
            let field = line.split_once(':').map(|(field, _)| field);
            !field.is_some_and(|field| field.eq_ignore_ascii_case(name))
        });
        let (_, first) = lines.next()?.split_once(':')?;
        let rest = lines.take_while(|line| line.starts_with([' ', '\t']));
        Some(std::iter::once(first).chain(rest).map(str::trim).collect::<Vec<_>>().join(" ").trim().to_owned())
    }

    /// Returns the token of the unsubscribe link (RFC 8058), if the message has one.
    pub fn unsubscribe_token(&self) -> Option<String> {
        let links = self.field("List-Unsubscribe")?;
        let (_, token) = links.split_once("/u/")?;
        let token = token.split(['>', ',', ' ']).next().unwrap_or_default();
        (!token.is_empty()).then(|| token.to_owned())
    }
}

/// Returns a bounce with this status, for a message that was accepted before.
pub(super) fn bounce(original: &OriginalMessage<'_>, status: EnhancedCode, now: DateTime<Utc>) -> Vec<u8> {
    let (to, header) = (original.to, original.header());
    let code = if status.class == 4 { 451 } else { 550 };
    let text = if status.to_string() == "5.1.1" { "No such user here" } else { "Simulated bounce" };
    let part = format!(
        "Reporting-MTA: dns; mx.{DOMAIN}\r\n\r\nFinal-Recipient: rfc822; {to}\r\nAction: failed\r\nStatus: {status}\r\n\
         Diagnostic-Code: smtp; {code} {status} {text}\r\n"
    );
    let top = top(original, &format!("Mail Delivery System <MAILER-DAEMON@mx.{DOMAIN}>"), "Undelivered Mail", now);
    multipart(&top, "delivery-status", &format!("The message to {to} could not be delivered."), &part, &header)
}

/// Returns the complaint of the recipient.
pub(super) fn complaint(original: &OriginalMessage<'_>, now: DateTime<Utc>) -> Vec<u8> {
    let (to, header) = (original.to, original.header());
    let sender = original.return_path.map_or_else(|| "<>".into(), |path| format!("<{path}>"));
    let part = format!(
        "Feedback-Type: abuse\r\nUser-Agent: Postrider-Simulator/1\r\nVersion: 1\r\nOriginal-Mail-From: {sender}\r\n\
         Original-Rcpt-To: <{to}>\r\nArrival-Date: {}\r\n",
        now.to_rfc2822()
    );
    let top = format!(
        "From: Feedback Loop <fbl@{DOMAIN}>\r\nTo: complaints@{DOMAIN}\r\nSubject: Complaint\r\nDate: {}\r\n",
        now.to_rfc2822()
    );
    multipart(&top, "feedback-report", &format!("{to} reported the message as spam."), &part, &header)
}

/// Returns the automatic reply of the mailbox.
pub(super) fn auto_reply(original: &OriginalMessage<'_>, now: DateTime<Utc>) -> Vec<u8> {
    let top = top(original, &format!("<{}>", original.to), "Out of office", now);
    let reference = original.field("Message-ID").map_or_else(String::new, |id| format!("In-Reply-To: {id}\r\n"));
    format!("{top}{reference}Auto-Submitted: auto-replied\r\n\r\nI am away until the next simulation.\r\n").into_bytes()
}

/// Returns the first fields of a message to the return path.
fn top(original: &OriginalMessage<'_>, from: &str, subject: &str, now: DateTime<Utc>) -> String {
    let to = original.return_path.map_or_else(|| "<>".into(), |path| format!("<{path}>"));
    format!("From: {from}\r\nTo: {to}\r\nSubject: {subject}\r\nDate: {}\r\n", now.to_rfc2822())
}

/// Returns a report with its three parts (RFC 6522): a text, the report, and the header of the message.
fn multipart(top: &str, kind: &str, text: &str, report: &str, header: &str) -> Vec<u8> {
    format!(
        "{top}MIME-Version: 1.0\r\nContent-Type: multipart/report; report-type={kind}; boundary=\"{BOUNDARY}\"\r\n\r\n\
         --{BOUNDARY}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n{text}\r\n\r\n\
         --{BOUNDARY}\r\nContent-Type: message/{kind}\r\n\r\n{report}\r\n\
         --{BOUNDARY}\r\nContent-Type: text/rfc822-headers\r\n\r\n{header}\r\n\r\n\
         --{BOUNDARY}--\r\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::bounce::report::{Action, Report, ReportKind};
    use crate::mail;

    const MIME: &[u8] = b"From: a@acme.test\r\nMessage-ID: <1@acme.test>\r\nList-Unsubscribe:\r\n <https://mail.acme.test/u/TOKEN>\r\n\r\nHello\r\n";

    fn read(report: impl Fn(&OriginalMessage<'_>) -> Vec<u8>) -> Report {
        let (to, path) = ("dsn+1@simulator.postrider.test".parse().unwrap(), "b+token@return.test".parse().unwrap());
        mail::report::read(&report(&OriginalMessage { to: &to, return_path: Some(&path), mime: MIME }))
    }

    #[test]
    fn bounce_is_understood() {
        let report = read(|original| bounce(original, "5.2.2".parse().unwrap(), DateTime::UNIX_EPOCH));
        assert_eq!((report.kind, report.original_message_id.as_deref()), (ReportKind::Dsn, Some("1@acme.test")));
        let [one] = report.recipients.as_slice() else { panic!("{report:?}") };
        assert_eq!((one.recipient.as_str(), one.action), ("dsn+1@simulator.postrider.test", Action::Failed));
        assert_eq!((one.reply.code, one.reply.enhanced), (Some(550), "5.2.2".parse().ok()));
    }

    #[test]
    fn complaint_is_understood() {
        let report = read(|original| complaint(original, DateTime::UNIX_EPOCH));
        assert_eq!((report.kind, report.rule), (ReportKind::Complaint, "rfc5965"));
        assert_eq!(report.recipients[0].recipient, "dsn+1@simulator.postrider.test");
        assert!(report.references.iter().any(|reference| reference == "b+token@return.test"), "{report:?}");
    }

    #[test]
    fn automatic_reply_is_no_bounce() {
        assert_eq!(read(|original| auto_reply(original, DateTime::UNIX_EPOCH)).kind, ReportKind::AutoReply);
    }

    #[test]
    fn unsubscribe_link_is_found_in_a_folded_field() {
        let to = "x@simulator.postrider.test".parse().unwrap();
        let token = |mime| OriginalMessage { to: &to, return_path: None, mime }.unsubscribe_token();
        assert_eq!(token(MIME).as_deref(), Some("TOKEN"));
        assert_eq!(token(b"From: a@acme.test\r\n\r\nList-Unsubscribe: <https://x/u/y>\r\n"), None);
    }
}
