//! Bounces and other reports, in the form in which servers send them.

use std::fmt::Write as _;

/// One recipient of a DSN.
pub struct About<'a> {
    pub recipient: &'a str,
    pub action: &'a str,
    pub said: &'a str,
}

/// Returns a failed delivery to an unknown user.
pub fn failed(recipient: &str) -> About<'_> {
    About { recipient, action: "failed", said: "550 5.1.1 no such user" }
}

/// Returns a successful delivery.
pub fn delivered(recipient: &str) -> About<'_> {
    About { recipient, action: "delivered", said: "250 2.1.5 delivered" }
}

/// Returns a delivery status notification (RFC 3464) with the header of the returned message.
pub fn dsn(envelope_id: Option<&str>, return_path: Option<&str>, about: &[About<'_>]) -> String {
    let mut text = String::from(
        "From: MAILER-DAEMON@mx.example.test\r\nTo: whoever@acme.test\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"b\"\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nSee below.\r\n\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.test\r\n",
    );
    if let Some(id) = envelope_id {
        write!(text, "Original-Envelope-Id: {id}\r\n").unwrap();
    }
    for About { recipient, action, said } in about {
        let status = said.split(' ').nth(1).unwrap();
        write!(
            text,
            "\r\nFinal-Recipient: rfc822; {recipient}\r\nAction: {action}\r\nStatus: {status}\r\nDiagnostic-Code: smtp; {said}\r\n"
        )
        .unwrap();
    }
    text.push_str("\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n");
    if let Some(path) = return_path {
        write!(text, "Return-Path: <{path}>\r\n").unwrap();
    }
    text.push_str("From: billing@acme.test\r\nSubject: Your invoice\r\n\r\nHello.\r\n--b--\r\n");
    text
}

/// Returns a complaint (RFC 5965) about the message with this return path. It does not name the recipient.
pub fn complaint(return_path: &str) -> String {
    format!(
        "From: fbl@provider.test\r\nTo: fbl@return.acme.test\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"b\"\r\n\r\n\
         --b\r\nContent-Type: text/plain\r\n\r\nSomebody pressed the button.\r\n\r\n\
         --b\r\nContent-Type: message/feedback-report\r\n\r\nFeedback-Type: abuse\r\nUser-Agent: x/1\r\nVersion: 1\r\n\
         Original-Mail-From: <{return_path}>\r\n\r\n\
         --b\r\nContent-Type: message/rfc822\r\n\r\nFrom: billing@acme.test\r\nSubject: Your invoice\r\n\r\nHello.\r\n--b--\r\n"
    )
}

/// An automatic reply.
pub const AWAY: &str = "From: ann@example.test\r\nTo: x@return.acme.test\r\nSubject: Away\r\nAuto-Submitted: auto-replied\r\n\r\n\
                        I am away.\r\n";
