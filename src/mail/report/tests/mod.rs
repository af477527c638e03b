//! Tests with reports of the large providers and common servers (`samples/`), and their expected results
//! (`samples/expected.txt`).

mod corpus;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use proptest::prelude::*;

use super::read;
use crate::domain::bounce::report::{Action, Report, ReportKind};

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
        (
            "Message status - delivered",
            "The message that you sent was delivered to the following:\n\n\tann@example.test",
        ),
        ("Message status - opened", "The message that you sent was opened by the following:\n\n\tann@example.test"),
        (
            "Delivery report",
            "The original message was received at 10:00\n\n   ----- The following addresses had successful delivery \
             notifications -----\n<ann@example.test>  (relayed to non-DSN-aware mailer)",
        ),
        (
            "Delivery Status Notification",
            "Delivery to these recipients or groups is complete, but no delivery notification was sent by the \
             destination server:\n\nann@example.test",
        ),
        ("Zustellungsbericht", "Ihre Nachricht wurde den folgenden Empfängern zugestellt:\n\nann@example.test"),
        ("Relayé : Facture", "Votre message a été relayé vers :\n\nann@example.test"),
        ("Entregado: Factura", "El mensaje se entregó a los siguientes destinatarios:\n\nann@example.test"),
    ] {
        let report = read_notice(subject, text);
        assert!(report.recipients.is_empty() && report.kind != ReportKind::Dsn, "{subject}: {report:?}");
    }
    let report = read_notice("Undelivered Mail", "<ann@example.test>: 550 5.1.1 user unknown");
    assert_eq!((report.kind, report.recipients.len()), (ReportKind::Dsn, 1));
}

#[test]
fn negated_success_is_a_failure() {
    for text in [
        "The message was not delivered to the following:\n\nann@example.test",
        "The message was not successfully delivered to\n\nann@example.test",
        "Unsuccessful delivery:\n\nann@example.test",
        "El mensaje no se entregó a los siguientes destinatarios:\n\nann@example.test",
        "Il messaggio non è stato recapitato a:\n\nann@example.test",
        "The message was delivered to mx.test, which replied\n\nann@example.test: no mailbox here by that name",
        "The message was delivered to mx.test, which replied\n\nann@example.test: 5.7.1 no",
    ] {
        let report = read_notice("Mail delivery", text);
        let actions: Vec<_> = report.recipients.iter().map(|one| one.action).collect();
        assert_eq!((report.kind, actions), (ReportKind::Dsn, vec![Action::Failed]), "{text}");
    }
}

#[test]
fn recipients_listed_as_delivered_are_not_failures() {
    for text in [
        "could not be delivered to the following:\n\n  ann@example.test\n\nwas delivered to the following:\n\n  bo@example.test",
        "was relayed to the following\nrecipients:\n\n  bo@example.test\n  cy@example.test\n\n\
         could not be delivered to the following:\n\n  ann@example.test",
    ] {
        let report = read_notice("Message status", &format!("The message that you sent\n{text}\n"));
        let named: Vec<_> = report.recipients.iter().map(|one| one.recipient.as_str()).collect();
        assert_eq!(named, ["ann@example.test"], "{text}");
    }
}

#[test]
fn challenges_are_automatic_replies() {
    for (subject, text) in [
        (
            "Please confirm your message",
            "This message was created automatically by mail delivery software.\n\nYour message is being held because the \
             address <b@acme.test> has not been verified.\n\nTo release your message for delivery, send an empty message \
             to\n\n  ann-confirm-1042.abc@example.test\n\nIf you do not respond, your message will not be delivered.",
        ),
        (
            "Delivery status: Invoice",
            "Your message is pending.\n\nann@example.test\n\nreceives messages only from known senders. Reply to this \
             message to confirm that you are a person.",
        ),
        ("Mail delivery: message held", "The message to\n\nann@example.test\n\nhas been held. Click the link below."),
        ("Demande d'authentification", "ann@example.test est protégé. Merci de vous authentifier en cliquant ici."),
    ] {
        let report = read_notice(subject, text);
        assert_eq!((report.kind, report.recipients.len()), (ReportKind::AutoReply, 0), "{subject}: {report:?}");
    }
    let refused = "ann@example.test: 550 5.7.1 Message held: confirm your message";
    assert_eq!(read_notice("Undelivered Mail", refused).kind, ReportKind::Dsn);
}

#[test]
fn introduction_of_a_mail_program_is_not_a_failure() {
    for introduction in [
        "This message was created automatically by mail delivery software.",
        "Hi. This is the mail program at mx.test.",
        "This is the mail system at host mx.test.",
        "The original message was received at 10:00",
    ] {
        let notice = |text: &str| {
            let header = "Return-Path: <>\nFrom: ann@example.test\nSubject: Your message";
            read(format!("{header}\n\n{introduction}\n\n{text}\n").as_bytes())
        };
        assert_eq!(notice("ann@example.test\nhas a new telephone number.").kind, ReportKind::Unknown, "{introduction}");
        let failed = notice("bo@example.test\n  550 5.1.1 no");
        assert_eq!((failed.kind, failed.recipients.len()), (ReportKind::Dsn, 1), "{introduction}");
    }
}

#[test]
fn delay_notices_in_other_languages_are_not_failures() {
    for (subject, text) in [
        ("Retraso en la entrega: Factura", "Se retrasó la entrega a estos destinatarios o grupos:"),
        ("Verzögert: Rechnung", "Die Nachricht wurde noch nicht zugestellt. Es wird weiterhin versucht."),
        ("Remise", "La remise a été retardée. Le serveur continuera d'essayer."),
        ("Entrega", "A mensagem ainda não foi entregue. O servidor continuará tentando."),
        ("Consegna", "Il messaggio non è ancora stato recapitato."),
        ("Bezorging", "Het bericht is nog niet bezorgd. De server blijft proberen."),
        ("配信", "メールの配信が遅れています。"),
    ] {
        let report = read_notice(subject, &format!("{text}\n\nann@example.test (ann@example.test)"));
        let actions: Vec<_> = report.recipients.iter().map(|one| one.action).collect();
        assert_eq!((report.kind, actions), (ReportKind::Dsn, vec![Action::Delayed]), "{subject}");
    }
    let report = read_notice("Entrega", "No se seguirá intentando la entrega.\n\nann@example.test");
    assert_eq!(report.recipients[0].action, Action::Failed);
}

#[test]
fn all_recipients_with_the_same_label_are_found() {
    for label in ["Recipient: [SMTP:", "To: <mailto:", "[smtp:", "Mailbox of addressee "] {
        let one = |name: &str, reason: &str| format!("\t{label}{name}@example.test]\n\tReason: {reason}\n\n");
        let text = format!(
            "The following recipient(s) could not be reached:\n\n{}{}Contact: postmaster of cy@example.test\n",
            one("ann", "550 5.1.1 user unknown"),
            one("bo", "552 5.2.2 mailbox full")
        );
        let report = read_notice("Message Delivery Failure", &text);
        let named: Vec<_> =
            report.recipients.iter().map(|one| (one.recipient.as_str(), one.reply.code.unwrap_or_default())).collect();
        assert_eq!(named, [("ann@example.test", 550), ("bo@example.test", 552)], "{label}");
    }
}
