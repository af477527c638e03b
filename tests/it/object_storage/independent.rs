//! Another implementation of S3 (moto), which verifies signatures, accepts the requests. It needs Python 3 with `venv`, and a
//! package index; the test is skipped without them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::{Clock as _, SystemClock};
use postrider::object_storage::{AccessKey, Credentials, ObjectError, ObjectStorage, Settings};
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::{MIB, attaching, attachment, referenced};
use crate::support::app::TestApp;
use crate::support::clock::hours;
use crate::support::python::with_packages;
use crate::support::s3::{BUCKET, configure};
use crate::support::until::until;
use crate::support::uploads::{file, put, sha256};

/// The package with its version.
const PACKAGE: &str = "moto[s3,server]==5.2.5";
/// Requests before moto verifies signatures: those of [`Moto::start`].
const UNVERIFIED: &str = "7";
const ROLE: &str = "arn:aws:iam::123456789012:role/postrider";
const POLICY: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"#;

/// The server of moto with a bucket and an access key; killed when it is dropped.
struct Moto {
    url: String,
    id: String,
    secret: String,
    /// A temporary access key.
    temporary: AccessKey,
    _child: Child,
}

impl Moto {
    async fn start(python: &Path) -> Self {
        // It cannot listen on port 0.
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let child = Command::new(python)
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", UNVERIFIED)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (url, http) = (format!("http://127.0.0.1:{port}"), Client::new());
        until("moto has a bucket", Duration::from_mins(1), async || {
            match http.put(format!("{url}/{BUCKET}")).send().await {
                Ok(response) if response.status().is_success() => Ok(()),
                Ok(response) => Err(response.status().to_string()),
                Err(error) => Err(error.to_string()),
            }
        })
        .await;
        let user = ("UserName", "postrider");
        ask(&url, "iam", &[("Action", "CreateUser"), user]).await;
        let policy = [("PolicyName", "attachments"), ("PolicyDocument", POLICY)];
        ask(&url, "iam", &[&[("Action", "PutUserPolicy"), user], &policy[..]].concat()).await;
        let key = ask(&url, "iam", &[("Action", "CreateAccessKey"), user]).await;
        let role = ("RoleName", "postrider");
        ask(&url, "iam", &[("Action", "CreateRole"), role, ("AssumeRolePolicyDocument", "{}")]).await;
        ask(&url, "iam", &[&[("Action", "PutRolePolicy"), role], &policy[..]].concat()).await;
        let assume = [("Action", "AssumeRole"), ("RoleArn", ROLE), ("RoleSessionName", "test")];
        let assumed = ask(&url, "sts", &assume).await;
        let temporary = AccessKey {
            id: field(&assumed, "AccessKeyId"),
            secret: field(&assumed, "SecretAccessKey").into(),
            session_token: Some(field(&assumed, "SessionToken").into()),
        };
        Self { id: field(&key, "AccessKeyId"), secret: field(&key, "SecretAccessKey"), temporary, url, _child: child }
    }

    /// Returns a client of the bucket with this secret of the user.
    fn client(&self, secret: &str) -> ObjectStorage {
        self.client_with(AccessKey { id: self.id.clone(), secret: secret.to_owned().into(), session_token: None })
    }

    /// Returns a client of the bucket with this access key.
    fn client_with(&self, key: AccessKey) -> ObjectStorage {
        let settings = Settings {
            bucket: BUCKET.into(),
            endpoint: Some(self.url.parse().unwrap()),
            region: "us-east-1".into(),
            credentials: Credentials::Static(key),
            prefix: String::new(),
            path_style: true,
            threshold: 0,
            timeout: Duration::from_secs(30),
        };
        ObjectStorage::new(settings).unwrap()
    }
}

/// Returns the text of an element.
fn field(xml: &str, name: &str) -> String {
    let rest = xml.split(&format!("<{name}>")).nth(1).unwrap_or_else(|| panic!("{xml}"));
    rest.split('<').next().unwrap().to_owned()
}

/// Sends a request to a service of moto, which does not verify it yet, and returns the response.
async fn ask(url: &str, service: &str, fields: &[(&str, &str)]) -> String {
    let version = if service == "sts" { "2011-06-15" } else { "2010-05-08" };
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.append_pair("Version", version).extend_pairs(fields);
    let scope = format!("test/20261123/us-east-1/{service}/aws4_request");
    let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=x");
    let request = Client::new().post(url).header("authorization", authorization);
    let request = request.header("content-type", "application/x-www-form-urlencoded").body(body.finish());
    let response = request.send().await.unwrap();
    assert!(response.status().is_success(), "{}", response.text().await.unwrap());
    response.text().await.unwrap()
}

#[tokio::test]
async fn moto_stores_returns_and_deletes_attachments() {
    let Some(python) = with_packages(&[PACKAGE], "moto.server, flask").await else { return };
    let moto = Moto::start(&python).await;
    let wrong = moto.client("another secret");
    assert_eq!(wrong.put("a", Bytes::from_static(b"x")).await, Err(ObjectError::Unavailable), "it verifies signatures");
    let client = moto.client(&moto.secret);
    client.probe(SystemClock.now()).await.unwrap();
    moto.client_with(moto.temporary.clone()).probe(SystemClock.now()).await.unwrap();
    let without_token = moto.client_with(AccessKey { session_token: None, ..moto.temporary.clone() });
    assert_eq!(without_token.put("a", Bytes::from_static(b"x")).await, Err(ObjectError::Unavailable));
    let with_moto = TestApp::builder().config(|config| {
        configure(config, &moto.url);
        config.attachments.access_key_id = Some(moto.id.clone());
        config.attachments.secret_access_key = Some(moto.secret.clone().into());
    });
    let app = with_moto.start().await;

    let (data, upload) = (file(1, 10 * MIB), file(2, 2 * MIB));
    let sent = app.send(attaching(&data)).await;
    assert_eq!(put(&app, &upload).await.status, 201);
    let keys = referenced(&app).await;
    let key_of = |data: &[u8]| keys.iter().find(|key| key.contains(&sha256(data))).unwrap();
    let (key, unused) = (key_of(&data), key_of(&upload));
    assert_eq!(client.size(key).await, Ok(Some(10 << 20)));
    app.run_until_idle().await;
    assert!(attachment(&app.smtp.received(1).await[0].raw) == data);
    let download = app.get(&format!("/v1/messages/{}/attachments/0", sent.id)).await;
    assert!(download.status == 200 && download.bytes == data);

    app.clock.advance(hours(8 * 24));
    assert_eq!(app.worker.clean_up().await.unwrap().objects, 1);
    assert_eq!((client.size(key).await, client.size(unused).await), (Ok(Some(10 << 20)), Ok(None)));

    client.delete(key).await.unwrap();
    client.delete(key).await.unwrap();
    assert_eq!(app.get(&format!("/v1/messages/{}/attachments/0", sent.id)).await.status, 404);
}
