//! The reports that other servers send: a bounce (RFC 3464) and a complaint (RFC 5965).

/// A kind of report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The recipient's server has no such user.
    Bounce,
    /// The recipient reported the message as spam.
    Complaint,
}

impl Kind {
    /// Returns the note after the report was received.
    pub(super) fn done(self) -> &'static str {
        match self {
            Self::Bounce => "bounced",
            Self::Complaint => "complained",
        }
    }
}

/// Returns the text on one line, so that it cannot add lines to the report.
fn line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Writes a report about a recipient of the message with this envelope sender and `Message-ID`.
pub(super) fn write(kind: Kind, sender: &str, recipient: &str, message_id: &str) -> String {
    let (sender, recipient, message_id) = (line(sender), line(recipient), line(message_id));
    let (report_type, note, part) = match kind {
        Kind::Bounce => (
            "delivery-status",
            "The address does not exist.",
            format!(
                "Content-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; inbox.postrider.test\r\n\r\n\
                 Final-Recipient: rfc822; {recipient}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
                 Diagnostic-Code: smtp; 550 5.1.1 No such user\r\n"
            ),
        ),
        Kind::Complaint => (
            "feedback-report",
            "The recipient reported the message as spam.",
            format!(
                "Content-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: postrider-dev/1\r\n\
                 Version: 1\r\nOriginal-Mail-From: <{sender}>\r\nOriginal-Rcpt-To: {recipient}\r\n"
            ),
        ),
    };
    format!(
        "From: MAILER-DAEMON@inbox.postrider.test\r\nTo: {sender}\r\nSubject: Report\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type={report_type}; boundary=\"b\"\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\n{note}\r\n\r\n--b\r\n{part}\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nReturn-Path: <{sender}>\r\nMessage-ID: {message_id}\r\n\r\n--b--\r\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn report_names_the_recipient_and_the_return_path() {
        let bounce = write(Kind::Bounce, "b+1@return.test", "ann@example.test", "<1@acme.test>");
        assert!(bounce.contains("\r\nFinal-Recipient: rfc822; ann@example.test\r\n"), "{bounce}");
        let complaint = write(Kind::Complaint, "b+1@return.test", "ann@example.test", "<1@acme.test>");
        assert!(complaint.contains("\r\nOriginal-Mail-From: <b+1@return.test>\r\n"), "{complaint}");
    }

    #[test]
    fn texts_add_no_lines() {
        let report = write(Kind::Bounce, "a@b.test", "ann@example.test\r\nAction: delivered", "<1@acme.test>");
        assert!(!report.contains("\r\nAction: delivered"), "{report}");
    }
}
