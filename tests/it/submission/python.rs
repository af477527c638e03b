//! Python's smtplib and its email package, as Django and other applications use them.

use std::process::Stdio;

use serde_json::json;
use tokio::process::Command;

use super::start;

const PROGRAM: &str = r#"
import smtplib, sys
from email.message import EmailMessage

host, port, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
message = EmailMessage()
message["From"] = "Acme Büro <billing@acme.test>"
message["To"] = "Ann Lee <ann@example.test>"
message["Bcc"] = "bo@example.test"
message["Subject"] = "Grüße"
message["X-Postrider-Tag"] = "kind=invoice"
message.set_content("Hello.\n.\nBye.\n")
message.add_alternative("<p>Grüße</p>", subtype="html")
message.add_attachment(b"%PDF-1.4", maintype="application", subtype="pdf", filename="invoice.pdf")
with smtplib.SMTP(host, port, timeout=30) as smtp:
    smtp.login("any user", key)
    smtp.send_message(message)
    try:
        smtp.sendmail("billing@acme.test", ["ann@example.test"], "Subject: no sender\r\n\r\nx")
    except smtplib.SMTPDataError as error:
        print(error.smtp_code, error.smtp_error.decode())
try:
    with smtplib.SMTP(host, port, timeout=30) as smtp:
        smtp.login("any user", "pr_wrong")
except smtplib.SMTPAuthenticationError as error:
    print(error.smtp_code)
"#;

#[tokio::test]
async fn smtplib_sends_a_message() {
    let app = start().await;
    let address = app.submission();
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, &address.ip().to_string(), &address.port().to_string(), &app.key]);
    let Ok(output) = command.stdin(Stdio::null()).kill_on_drop(true).output().await else {
        eprintln!("skipped: this test needs python3");
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let printed = String::from_utf8(output.stdout).unwrap();
    let mut lines = printed.lines();
    assert!(lines.next().unwrap().starts_with("550 5.6.0 invalid_request (required): "), "{printed}");
    assert_eq!(lines.next(), Some("535"), "{printed}");

    let listed = app.get("/v1/messages").await.body["data"].as_array().unwrap().clone();
    assert_eq!(listed.len(), 1);
    let message = app.message(listed[0]["id"].as_str().unwrap()).await;
    assert_eq!(message["from"], json!({"email": "billing@acme.test", "name": "Acme B\u{fc}ro"}));
    assert_eq!((&message["subject"], &message["tags"][0]["value"]), (&json!("Gr\u{fc}\u{df}e"), &json!("invoice")));
    let kinds: Vec<_> = message["recipients"].as_array().unwrap().iter().map(|one| &one["kind"]).collect();
    assert_eq!(kinds, ["to", "bcc"]);
    app.run_until_idle().await;
    let raw = String::from_utf8(app.smtp.messages()[0].raw.clone()).unwrap();
    assert!(raw.contains("\r\n.\r\nBye.") && raw.contains("invoice.pdf") && !raw.contains("Bcc"), "{raw}");
}
