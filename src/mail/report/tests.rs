//! Tests with reports of the large providers and common servers (`samples/`), and their expected results
//! (`samples/expected.txt`).

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::read;
use crate::domain::report::{Report, ReportKind};

fn samples() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/mail/report/samples"))
}

/// Formats a report on one line, as in the table.
fn summary_line(report: &Report) -> String {
    let mut line = format!("{} {}", report.kind.as_str(), report.rule);
    for recipient in &report.recipients {
        let reply = &recipient.reply;
        let code = reply.code.map_or("-".into(), |code| code.to_string());
        let enhanced = reply.enhanced.map_or("-".into(), |code| code.to_string());
        let _ = write!(line, " | {} {} {code} {enhanced}", recipient.recipient, recipient.action.as_str());
        if let Some(original) = &recipient.original {
            let _ = write!(line, " for {original}");
        }
        if let Some(behind) = &recipient.behind {
            let _ = write!(line, " behind {behind}");
        }
        if let Some(judgement) = recipient.judgement {
            let _ = write!(line, " {} {}", judgement.kind.as_str(), judgement.category.as_str());
        }
    }
    let id = report.original_message_id.as_deref().unwrap_or("-");
    let reference = report.references.first().map_or("-", String::as_str);
    format!("{line} | {id} {reference}")
}

#[test]
fn sample_reports_give_the_expected_results() {
    let table = fs::read_to_string(samples().join("expected.txt")).unwrap();
    let mut wrong = String::new();
    let mut names = Vec::new();
    for line in table.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, expected) = line.split_once(": ").unwrap();
        names.push(format!("{name}.eml"));
        let message = fs::read(samples().join(format!("{name}.eml"))).unwrap();
        let report = read(&message);
        let got = summary_line(&report);
        if got != expected {
            let _ = writeln!(wrong, "{name}: {got}\n  and not: {expected}\n  {report:?}");
        }
        // The files have bare LF; SMTP uses CRLF.
        let on_the_wire = String::from_utf8(message).unwrap().replace('\n', "\r\n");
        assert_eq!(summary_line(&read(on_the_wire.as_bytes())), got, "{name} with CRLF");
        assert_eq!(summary_line(&read(on_the_wire.replace('\n', "").as_bytes())), got, "{name} with CR");
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let mut files: Vec<String> =
        fs::read_dir(samples()).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    files.retain(|name| name != "expected.txt");
    files.sort();
    names.sort();
    assert_eq!(files, names, "a sample without a line in the table");
}

#[test]
fn recipient_named_twice_in_a_complaint_is_reported_once() {
    let message =
        b"Content-Type: message/feedback-report\n\nFeedback-Type: abuse\nOriginal-Rcpt-To: <Ann@example.test>\n\
                 Removal-Recipient: ann@example.test\nOriginal-Rcpt-To: bo@example.test\n";
    let report = read(message);
    let named: Vec<&str> = report.recipients.iter().map(|one| one.recipient.as_str()).collect();
    assert_eq!((report.kind, named), (ReportKind::Complaint, vec!["Ann@example.test", "bo@example.test"]));
}

#[test]
fn report_truncated_after_its_status_is_equivalent() {
    let message = fs::read(samples().join("postfix-real-two.eml")).unwrap();
    let text = String::from_utf8_lossy(&message).into_owned();
    let returned = text.find("message/rfc822").or_else(|| text.find("text/rfc822-headers")).unwrap();
    let whole = read(&message);
    for end in returned..message.len() {
        assert_eq!(read(&message[..end]).recipients, whole.recipients, "{end}");
    }
}

/// Fragments that reports consist of.
const PIECES: [&str; 24] = [
    "From: mailer-daemon@mx.test\n",
    "Subject: failure notice\n",
    "X-Failed-Recipients: a@b.test\n",
    "Auto-Submitted: auto-replied\n",
    "Content-Type: multipart/report; boundary=x\n",
    "Content-Type: multipart/mixed; boundary=\"x\"\n",
    "Content-Type: message/delivery-status\n",
    "Content-Type: message/feedback-report\n",
    "Content-Type: message/rfc822\n",
    "Content-Type: text/html; charset=koi8-r\n",
    "Content-Transfer-Encoding: base64\n",
    "Content-Transfer-Encoding: quoted-printable\n",
    "\n",
    "\n--x\n",
    "--x--\n",
    "Final-Recipient: rfc822; a+2B\\x{E9}@b.test\n",
    "Action: failed\n",
    "Status: 5.1.1\n",
    "Diagnostic-Code: smtp; 550-5.1.1 no 550 5.1.1 user\n",
    "Feedback-Type: abuse\nOriginal-Rcpt-To: a@b.test\n",
    "Hi. This is the qmail-send program\n\n<a@b.test>:\nSorry (#5.1.1)\n",
    "Message-ID: <a@b>\nReceived: x\nReturn-Path: <b+t@c.test>\n",
    ">\u{df} \t@ @é \"\"@",
    "\r\n",
];

fn check_limits(mime: &[u8]) {
    let report = read(mime);
    assert!(report.references.len() <= 32 && report.recipients.len() <= 1_001);
    for recipient in &report.recipients {
        let address = &recipient.recipient;
        assert!(!address.is_empty() && address.len() <= 700 && !address.contains(char::is_control), "{address:?}");
        assert!(!recipient.reply.text.contains('\0'));
    }
    assert!(report.kind != ReportKind::Dsn || !report.recipients.is_empty());
}

proptest! {
    #[test]
    fn any_combination_of_fragments_is_parsed(pieces in prop::collection::vec((0..PIECES.len(), "\\PC{0,6}"), 0..40)) {
        let message: Vec<&str> = pieces.iter().flat_map(|(piece, odd)| [PIECES[*piece], odd]).collect();
        let message = message.concat();
        check_limits(message.as_bytes());
    }

    #[test]
    fn sample_with_missing_bytes_is_parsed(sample in 0_usize..100, from in 0_usize..4_000, length in 0_usize..200, byte: u8) {
        let mut files: Vec<_> = fs::read_dir(samples()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        let mut message = fs::read(&files[sample % files.len()]).unwrap();
        let from = from.min(message.len());
        let to = (from + length).min(message.len());
        message.splice(from..to, [byte]);
        check_limits(&message);
        check_limits(&message[..from]);
    }
}

#[test]
fn ten_mebibytes_are_parsed_quickly() {
    let nested = "Content-Type: multipart/mixed; boundary=x\n\n--x\n";
    for piece in [
        "a",
        "a:\n",
        "@",
        "a@",
        "\n",
        "\n\n",
        "x: y\n z\n",
        nested,
        "Content-Type: message/rfc822\n\n",
        "5.1.1 550 ",
        "<a@b.test>\n",
        "Final-Recipient: rfc822;a@b\nAction: failed\n\n",
    ] {
        for start in [
            "",
            "From: mailer-daemon@x.test\nSubject: failure notice\n\nthis is the qmail-send program\n",
            "Content-Type: message/delivery-status\n\n",
        ] {
            let message = format!("{start}{}", piece.repeat(10 * 1_024 * 1_024 / piece.len()));
            let started = std::time::Instant::now();
            check_limits(message.as_bytes());
            assert!(started.elapsed().as_secs() < 10, "{piece:?} after {start:?}: {:?}", started.elapsed());
        }
    }
}

/// Parses a plain-text message from a server.
fn read_notice(subject: &str, text: &str) -> Report {
    read(format!("Return-Path: <>\nFrom: postmaster@mx.test\nSubject: {subject}\n\n{text}\n").as_bytes())
}

#[test]
fn receipts_and_absence_notices_are_not_failures() {
    for (subject, text) in [
        ("Read: Undelivered mail", "Your message\n\n  To: ann@example.test\n\nwas read today."),
        ("Delivered: Failure of your server", "Your message was delivered to\n\n  ann@example.test"),
        (
            "Successful Mail Delivery Report",
            "Your message was successfully delivered to\n\n<ann@example.test>: mailbox",
        ),
        ("Delivery Status Notification (Relay)", "It has been successfully relayed to\n\n   ann@example.test"),
        ("Return receipt", "<list@example.test>... expanded to multiple addresses"),
        ("Out of office: Mail delivery", "I am away. Write to bo@example.test instead."),
    ] {
        let report = read_notice(subject, text);
        assert!(report.recipients.is_empty() && report.kind != ReportKind::Dsn, "{subject}: {report:?}");
    }
    let report = read_notice("Undelivered Mail", "<ann@example.test>: 550 5.1.1 user unknown");
    assert_eq!((report.kind, report.recipients.len()), (ReportKind::Dsn, 1));
}
