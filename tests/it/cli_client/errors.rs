//! Errors of client commands: exit codes and hints. No output contains the API key.

use std::process::Stdio;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{command, failure, output, stdout_of};
use crate::support::app::TestApp;
use crate::support::client::Api;
use crate::support::process::{postrider, run, stderr_of};

const KEY: &str = "pr_0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Starts a server that responds to every request with these bytes.
pub(super) async fn server(response: Vec<u8>) -> Api {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let response = response.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                    if client.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let _ = client.write_all(&response).await;
            });
        }
    });
    Api::new(base, KEY)
}

/// Returns a response that ends the connection.
pub(super) fn response(status: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}").into_bytes()
}

#[tokio::test]
async fn exit_code_and_hint_say_what_is_wrong() {
    let app = TestApp::start().await;
    let (code, errors) = failure(&app.with_key(KEY), &["lanes"]).await;
    assert!(code == 4 && errors.lines().nth(1).unwrap().starts_with("hint: set POSTRIDER_API_KEY"), "{errors}");

    let closed = Api::new("http://127.0.0.1:1", KEY);
    let (code, errors) = failure(&closed, &["events", "--follow"]).await;
    assert!(
        code == 5 && errors.contains("cannot reach http://127.0.0.1:1: ") && errors.contains("refused"),
        "{errors}"
    );
    assert!(errors.contains("\nhint: check --url"), "{errors}");

    for (answer, code, expected) in [
        (response("404 Not Found", "<html>"), 1, "hint: check that --url or POSTRIDER_URL is the address"),
        (response("502 Bad Gateway", "<html>"), 5, "returned 502 Bad Gateway"),
        (response("200 OK", "<html>"), 1, "not one of Postrider"),
        (response("200 OK", "{\"data\": [{}]}"), 1, "not one of Postrider"),
        (
            b"HTTP/1.1 301 Moved\r\nLocation: https://x.test/\r\nContent-Length: 0\r\n\r\n".to_vec(),
            1,
            "redirects to https://x.test/",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{".to_vec(), 5, "ended early"),
        (b"SSH-2.0-x\r\n".to_vec(), 5, "broke"),
    ] {
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (seen, errors) = failure(&server(answer).await, &["lanes"]).await;
        assert!(seen == code && errors.contains(expected), "{text}: {seen} {errors}");
    }
}

#[tokio::test]
async fn key_comes_from_option_environment_or_file() {
    let (app, dir) = (TestApp::start().await, tempfile::tempdir().unwrap());
    let file = dir.path().join("key");
    std::fs::write(&file, format!("{}\n", app.key)).unwrap();
    let run_with = async |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = postrider(arguments);
        command.current_dir(dir.path()).envs(environment.iter().copied());
        run(command).await
    };
    let (file, url, key) = (file.to_str().unwrap(), app.base.as_str(), app.key.as_str());
    for (arguments, environment) in [
        (&["lanes", "--url", url, "--key", key][..], &[][..]),
        (&["lanes", "--key-file", file], &[("POSTRIDER_URL", url)]),
        (&["lanes"], &[("POSTRIDER_URL", url), ("POSTRIDER_API_KEY_FILE", file), ("POSTRIDER_API_KEY", "")]),
    ] {
        let output = run_with(arguments, environment).await;
        assert!(output.status.success(), "{arguments:?}: {}", stderr_of(&output));
    }
    // Neither help nor errors show the key.
    let help = run_with(&["lanes", "--help"], &[("POSTRIDER_API_KEY", key)]).await;
    assert!(help.status.success() && !stdout_of(&help).contains(key));
    for arguments in [&["lanes"][..], &["lanes", "--url", "ftp://x"], &["lanes", "--nonsense", "--key", key]] {
        let output = run_with(arguments, &[("POSTRIDER_API_KEY", key)]).await;
        let errors = stderr_of(&output);
        assert_eq!((output.status.code(), errors.contains(key)), (Some(2), false), "{errors}");
    }
}

#[tokio::test]
async fn closed_pipe_ends_quietly() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.send(json!({})).await;
    }
    assert_eq!(output(&app, &["events"]).await.lines().count(), 3);
    let mut child = command(&app, &["events"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{:?} {}", ended.status, stderr_of(&ended));
}
