//! `postrider send`: what arrives, and what the command reports about it.

use std::fs::File;
use std::io::Seek as _;

use mail_parser::{MessageParser, MimeHeaders as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};

use super::{command, failure, json_lines, output, run_with_input, small, stdout_of};
use crate::support::app::TestApp;
use crate::support::process::{run, stderr_of};
use crate::support::uploads::file;

#[tokio::test]
async fn attachments_and_all_fields_arrive() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let contents = [("invoice 42.pdf", file(3, 700_001)), ("Zoë.txt", b"small".to_vec()), ("empty.bin", Vec::new())];
    let mut arguments = vec!["send", "--from", "Acme <billing@acme.test>", "--to", "\"Ann, Ms.\" <ann@example.test>"];
    arguments.extend(["--to", "bo@example.test", "--cc", "cy@example.test", "--bcc", "di@example.test"]);
    arguments.extend(["--reply-to", "help@acme.test", "--subject", "Rechnung für Zoë", "--html", "<p>Hi</p>"]);
    arguments.extend(["--header", "X-Entity-Ref: 42: 7", "--tag", "kind=invoice", "--metadata", "order=4=2"]);
    arguments.extend(["--text-file", "-", "--stream", "bulk"]);
    let paths: Vec<String> = contents
        .iter()
        .map(|(name, data)| {
            let path = dir.path().join(name);
            std::fs::write(&path, data).unwrap();
            path.to_str().unwrap().to_owned()
        })
        .collect();
    arguments.extend(paths.iter().flat_map(|path| ["--attach", path]));
    let sent = run_with_input(command(&app, &arguments), "Grüße\nvon Acme\n").await;
    assert!(sent.status.success(), "{}", stderr_of(&sent));
    let printed = stdout_of(&sent);
    let id = printed.split(' ').next().unwrap();
    assert!(printed.starts_with(&format!("{id} queued\nRECIPIENT ")) && printed.lines().count() == 6, "{printed}");
    let stored = app.message(id).await;
    assert_eq!(
        (&stored["tags"], &stored["metadata"]),
        (&json!([{"name": "kind", "value": "invoice"}]), &json!({"order": "4=2"}))
    );
    assert_eq!((&stored["stream"], &stored["reply_to"][0]["email"]), (&json!("bulk"), &json!("help@acme.test")));
    let kinds: Vec<_> =
        stored["recipients"].as_array().unwrap().iter().map(|recipient| recipient["kind"].clone()).collect();
    assert_eq!(kinds, ["to", "to", "cc", "bcc"]);

    app.run_until_idle().await;
    let raw = app.smtp.messages().remove(0).raw;
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(
        (mail.subject(), mail.to().unwrap().first().unwrap().name()),
        (Some("Rechnung für Zoë"), Some("Ann, Ms."))
    );
    assert_eq!(mail.body_text(0).unwrap().replace("\r\n", "\n").trim_end(), "Grüße\nvon Acme");
    assert!(mail.body_html(0).unwrap().contains("<p>Hi</p>"));
    assert_eq!(mail.header_raw("X-Entity-Ref").map(str::trim), Some("42: 7"));
    let received: Vec<_> =
        mail.attachments().map(|part| (part.attachment_name().unwrap().to_owned(), part.contents().to_vec())).collect();
    assert_eq!(received.len(), 3);
    for ((name, data), (received_name, received_data)) in contents.iter().zip(&received) {
        assert!(
            name == received_name && data == received_data,
            "{name}: {received_name}, {} bytes",
            received_data.len()
        );
    }
}

#[tokio::test]
async fn text_is_read_from_standard_input() {
    let app = TestApp::start().await;
    let arguments = ["send", "--from", "a@acme.test", "--to", "ann@example.test", "--subject", "Log", "--json"];
    let sent = run_with_input(command(&app, &arguments), "line 1\nline 2\n").await;
    // Standard output has only the JSON of the API.
    let reply: Value = serde_json::from_str(&stdout_of(&sent)).unwrap();
    assert_eq!(
        (reply["status"].as_str(), reply["recipients"][0]["address"].as_str()),
        (Some("queued"), Some("ann@example.test"))
    );
    app.run_until_idle().await;
    let raw = String::from_utf8(app.smtp.messages().remove(0).raw).unwrap();
    assert!(raw.contains("line 1\r\nline 2\r\n"), "{raw}");
}

#[tokio::test]
async fn attachment_leaves_standard_input_alone() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let (attached, list) = (dir.path().join("a.txt"), dir.path().join("list"));
    std::fs::write(&attached, "content").unwrap();
    std::fs::write(&list, "bo@example.test\n").unwrap();
    let addressed = ["send", "--from", "a@acme.test", "--to", "ann@example.test", "--subject", "List"];
    let arguments = [&addressed[..], &["--attach", attached.to_str().unwrap()]].concat();
    // As in a shell loop that reads addresses from standard input.
    let mut input = File::open(&list).unwrap();
    let mut sending = command(&app, &arguments);
    sending.stdin(input.try_clone().unwrap());
    let sent = run(sending).await;
    assert!(sent.status.success(), "{}", stderr_of(&sent));
    assert_eq!(input.stream_position().unwrap(), 0, "nothing is read");

    let (code, errors) = failure(&app, &addressed).await;
    assert!(code == 2 && errors.contains("the message has no text\nhint: pass --text"), "{errors}");
}

#[tokio::test]
async fn wait_reports_the_end_of_each_recipient() {
    let app = TestApp::builder().with_all_roles().start().await;
    let sent = output(&app, &small(&["--wait", "50s"])).await;
    let lines: Vec<&str> = sent.lines().collect();
    assert!(lines.len() == 3 && lines[0].ends_with(" queued"), "{sent}");
    assert!(lines[1].starts_with("RECIPIENT ") && lines[2].starts_with("ann@example.test  relayed"), "{sent}");

    let id = lines[0].split(' ').next().unwrap();
    let json = json_lines(&output(&app, &small(&["--wait", "--json"])).await);
    assert_eq!((json.len(), &json[0]["status"], &json[1]["status"]), (2, &json!("queued"), &json!("relayed")));
    assert!(json[0]["id"] == json[1]["id"] && json[0]["id"] != id);

    app.smtp.rcpt("bo@example.test").replies(["550 5.7.1 Not here"]);
    let refused = run(command(&app, &small(&["--to", "bo@example.test", "--wait", "50s"]))).await;
    let (printed, errors) = (stdout_of(&refused), stderr_of(&refused));
    assert_eq!(refused.status.code(), Some(7), "{printed}{errors}");
    assert!(printed.contains("550 5.7.1 Not here") && printed.contains("relayed"), "{printed}");
    let id = printed.split(' ').next().unwrap();
    assert_eq!(errors, format!("error: not delivered to 1 of 2 recipients\nhint: `postrider explain {id}` says why\n"));
}

#[tokio::test]
async fn wait_ends_at_its_limit() {
    let app = TestApp::start().await;
    let unfinished = run(command(&app, &small(&["--wait", "1s"]))).await;
    assert_eq!(unfinished.status.code(), Some(8));
    assert!(
        stderr_of(&unfinished).starts_with("error: 1 of 1 recipients are still pending after 1s\n"),
        "{}",
        stderr_of(&unfinished)
    );
    assert!(stdout_of(&unfinished).contains("ann@example.test  queued"), "{}", stdout_of(&unfinished));
}

#[tokio::test]
async fn lost_response_does_not_send_twice() {
    let app = TestApp::start().await;
    let (listener, target) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), app.base.replace("http://", ""));
    let mut proxied = app.api().clone();
    proxied.base = format!("http://{}", listener.local_addr().unwrap());
    // The proxy reads the first response and discards it.
    tokio::spawn(async move {
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(&target).await.unwrap();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut answer = [0; 1];
            tokio::select! {
                read = client.read(&mut buffer) => server.write_all(&buffer[..read.unwrap()]).await.unwrap(),
                _ = server.read(&mut answer) => break,
            }
        }
        drop((client, server));
        let (mut client, _) = listener.accept().await.unwrap();
        let mut server = TcpStream::connect(&target).await.unwrap();
        let _ = copy_bidirectional(&mut client, &mut server).await;
    });
    let sent = output(&proxied, &small(&[])).await;
    let list = app.get("/v1/messages").await.body;
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
    assert_eq!(sent, format!("{} queued\n", list["data"][0]["id"].as_str().unwrap()));
}

#[tokio::test]
async fn interrupted_sending_names_its_idempotency_key() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let api = crate::support::client::Api::new(format!("http://{}", listener.local_addr().unwrap()), "pr_secret");
    let requests = tokio::spawn(async move {
        let mut keys = Vec::new();
        while keys.len() < 4 {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                assert!(client.read_buf(&mut request).await.unwrap() > 0);
            }
            let head = String::from_utf8_lossy(&request).into_owned();
            keys.push(head.lines().find_map(|line| line.strip_prefix("idempotency-key: ")).unwrap().to_owned());
        }
        keys
    });
    let (code, errors) = failure(&api, &small(&["--at", "2h"])).await;
    let keys = requests.await.unwrap();
    assert!(keys.iter().all(|key| *key == keys[0]) && keys[0].starts_with("cli-"), "{keys:?}");
    assert_eq!(code, 5);
    // If the command is repeated, `--at 2h` means another time, so the hint names the time itself.
    let (_, options) = errors.split_once("may have been accepted; ").expect("a hint");
    let (_, at) = options.split_once("with --at '").expect("a time");
    let (at, rest) = at.split_once("' ").unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(at).is_ok(), "{errors}");
    assert_eq!(rest, format!("--idempotency-key '{}'\n", keys[0]));
}
