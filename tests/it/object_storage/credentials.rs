//! Temporary credentials, which are renewed while the service runs.

use std::process::Output;
use std::time::Duration;

use postrider::config::{CredentialSource, SecretKey};
use reqwest::Method;
use serde_json::json;

use super::{MIB, attaching, attachment, builder};
use crate::support::app::TestApp;
use crate::support::aws_roles::{AwsRoles, TOKEN};
use crate::support::client::Api;
use crate::support::postgres::Database;
use crate::support::process::{Service, key, on, run, serve, stderr_of};
use crate::support::s3::{S3Server, bucket_variables};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;
use crate::support::uploads::{file, put, sha256};

const LIMIT: Duration = Duration::from_secs(30);
const SOURCE: &str = "POSTRIDER_ATTACHMENTS__CREDENTIALS";

/// Uploads a file until it is stored, as a client does after 503.
async fn put_until_stored(api: &Api, data: &[u8]) {
    let path = format!("/v1/blobs/{}", sha256(data));
    // Until then, the store refuses the old credentials, which is 503.
    let put = async || api.request(Method::PUT, &path).body(data.to_vec()).send().await.unwrap().status().as_u16();
    until("the file is stored", LIMIT, async || match put().await {
        201 => Ok(()),
        other => Err(other),
    })
    .await;
}

/// Starts the service with the variables of a role, and checks that it uses the credentials of the role, and then new ones.
async fn role_is_used(roles: &AwsRoles, variables: &[(&str, String)]) {
    let (s3, database, smtp) = (S3Server::start().await, Database::new(), SmtpServer::start().await);
    let key = key(&database.url).await;
    let mut command = serve(&database.url, smtp.address(), &["--only", "api"]);
    command.envs(bucket_variables(&s3.url())).envs(variables.iter().cloned());
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().unwrap(), key);
    for n in 1..3 {
        let (id, token) = (format!("ASIA{n}"), format!("hidden-token-{n}"));
        s3.accept_only(&id, Some(&token));
        roles.issue(&id, &token);
        put_until_stored(&api, &file(n, MIB)).await;
    }
    assert_eq!(s3.keys().len(), 2);
    let log = serde_json::to_string(&service.lines()).unwrap();
    assert!(!log.contains("hidden-token") && !log.contains(TOKEN), "{log}");
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn session_token_is_signed_and_sent() {
    let s3 = S3Server::start().await;
    s3.accept_only("test", Some("FwoGZXIvYXdz/+=="));
    let with_token = builder(&s3).config(|config| {
        config.attachments.session_token = Some(SecretKey::from("FwoGZXIvYXdz/+==".to_owned()));
    });
    let app = with_token.start().await;
    let data = file(1, MIB);
    app.send(attaching(&data)).await;
    app.run_until_idle().await;
    assert!(attachment(&app.smtp.received(1).await[0].raw) == data);
}

#[tokio::test]
async fn replaced_credentials_file_is_used() {
    let (s3, dir) = (S3Server::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("credentials");
    let write = |id: &str, token: &str| {
        let text =
            format!("[default]\naws_access_key_id = {id}\naws_secret_access_key = s\naws_session_token = {token}\n");
        // Replaced at once, as Kubernetes does.
        std::fs::write(dir.path().join("new"), text).unwrap();
        std::fs::rename(dir.path().join("new"), &path).unwrap();
        s3.accept_only(id, Some(token));
    };
    write("ASIA1", "token-1");
    let with_file = builder(&s3).config(|config| {
        let section = &mut config.attachments;
        (section.access_key_id, section.secret_access_key) = (None, None);
        (section.credentials, section.credentials_file) = (CredentialSource::File, Some(path.clone()));
    });
    let app = with_file.start().await;
    let data = file(1, MIB);
    app.send(attaching(&data)).await;
    app.run_until_idle().await;
    assert!(attachment(&app.smtp.received(1).await[0].raw) == data);
    write("ASIA2", "token-2");
    put_until_stored(&app, &file(2, MIB)).await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(put(&app, &file(3, MIB)).await.status, 201, "the last credentials are used");
}

#[tokio::test]
async fn role_of_an_instance_is_used() {
    let roles = AwsRoles::start().await;
    let variables = [(SOURCE, "instance".to_owned()), ("AWS_EC2_METADATA_SERVICE_ENDPOINT", roles.url())];
    role_is_used(&roles, &variables).await;
}

#[tokio::test]
async fn role_of_a_container_is_used() {
    let (roles, dir) = (AwsRoles::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("token");
    std::fs::write(&path, TOKEN).unwrap();
    let variables = [
        (SOURCE, "environment".to_owned()),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", roles.url())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", path.to_str().unwrap().to_owned()),
    ];
    role_is_used(&roles, &variables).await;
}

#[tokio::test]
async fn role_of_a_service_account_is_used() {
    let (roles, dir) = (AwsRoles::start().await, tempfile::tempdir().unwrap());
    let path = dir.path().join("token");
    std::fs::write(&path, TOKEN).unwrap();
    let variables = [
        (SOURCE, "environment".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", path.to_str().unwrap().to_owned()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/postrider".to_owned()),
        ("AWS_ENDPOINT_URL_STS", roles.url()),
    ];
    role_is_used(&roles, &variables).await;
}

/// Runs a command with a bucket and these variables.
async fn run_with(app: &TestApp, command: &str, s3: &S3Server, variables: &[(&str, &str)]) -> Output {
    let mut command = on(&app.database.url, &[command]);
    command
        .envs(bucket_variables(&s3.url()))
        .envs(variables.iter().copied())
        .env("POSTRIDER_ATTACHMENTS__TIMEOUT", "5s");
    run(command).await
}

#[tokio::test]
async fn missing_credentials_are_named_at_the_start() {
    let (s3, app) = (S3Server::start().await, TestApp::start().await);
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[], "attachments.access_key_id"),
        (&[(SOURCE, "file")], "attachments.credentials_file"),
        (
            &[(SOURCE, "file"), ("POSTRIDER_ATTACHMENTS__CREDENTIALS_FILE", "/nonexistent")],
            "attachments.credentials_file: cannot read /nonexistent",
        ),
        (&[(SOURCE, "environment")], "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (&[(SOURCE, "environment"), ("AWS_ACCESS_KEY_ID", "id")], "AWS_SECRET_ACCESS_KEY is not"),
        (&[(SOURCE, "instance"), ("POSTRIDER_ATTACHMENTS__ACCESS_KEY_ID", "id")], "has no effect"),
    ];
    for (variables, named) in cases {
        for command in ["serve", "doctor"] {
            let output = run_with(&app, command, &s3, variables).await;
            let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), stderr_of(&output));
            assert!(!output.status.success() && said.contains(named), "{command} {variables:?}: {said}");
        }
    }
}

#[tokio::test]
async fn doctor_quotes_no_session_token() {
    let (s3, app) = (S3Server::start().await, TestApp::start().await);
    s3.accept_only("id", Some("token"));
    let key = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "hidden"), ("AWS_SESSION_TOKEN", "hidden")];
    let doctor = async |change: (&'static str, &'static str)| {
        let variables: Vec<_> = [(SOURCE, "environment")].into_iter().chain(key).chain([change]).collect();
        let output = run_with(&app, "doctor", &s3, &variables).await;
        let line = String::from_utf8(output.stdout).unwrap();
        line.lines().find(|line| line[6..].starts_with("attachments")).unwrap_or_else(|| panic!("{line}")).to_owned()
    };
    let refused = doctor(("AWS_REGION", "us-east-1")).await;
    assert!(refused.starts_with("BAD ") && refused.contains("SignatureDoesNotMatch: Check the key."), "{refused}");
    assert!(!refused.contains("hidden") && refused.contains("attachments.credentials"), "{refused}");
    let accepted = doctor(("AWS_SESSION_TOKEN", "token")).await;
    assert!(accepted.starts_with("ok "), "{accepted}");
}

#[tokio::test]
async fn messages_wait_while_the_credentials_have_expired() {
    let s3 = S3Server::start().await;
    let app = builder(&s3).start().await;
    let sent = app.send(attaching(&file(1, MIB))).await.id;
    s3.accept_only("another", None);
    app.run_until_idle().await;
    assert_eq!(app.status(&sent).await, "queued");
    assert_eq!(app.recipient(&sent).await["held"], json!(null));
    s3.accept_only("test", None);
    until("the message is relayed", LIMIT, async || {
        app.clock.advance(crate::support::clock::minutes(1));
        app.run_until_idle().await;
        match &*app.status(&sent).await {
            "relayed" => Ok(()),
            other => Err(other.to_owned()),
        }
    })
    .await;
}
