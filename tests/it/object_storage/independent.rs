//! Another implementation of S3 (moto), which verifies signatures, accepts the requests. It needs Python 3 with `venv`, and a
//! package index; the test is skipped without them.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use postrider::clock::{Clock as _, SystemClock};
use postrider::object_storage::{ObjectError, ObjectStorage, Settings};
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
/// Marks a request of a test to IAM, which moto does not verify yet.
const IAM: &str =
    "AWS4-HMAC-SHA256 Credential=test/20261123/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
/// Requests before moto verifies signatures: those of [`Moto::start`].
const UNVERIFIED: &str = "4";
const POLICY: &str =
    r#"{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}"#;

/// The server of moto with a bucket and an access key; killed when it is dropped.
struct Moto {
    url: String,
    id: String,
    secret: String,
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
        iam(&url, &[("Action", "CreateUser")]).await;
        let policy = [("Action", "PutUserPolicy"), ("PolicyName", "attachments"), ("PolicyDocument", POLICY)];
        iam(&url, &policy).await;
        let key = iam(&url, &[("Action", "CreateAccessKey")]).await;
        let field = |name: &str| {
            let rest = key.split(&format!("<{name}>")).nth(1).unwrap_or_else(|| panic!("{key}"));
            rest.split('<').next().unwrap().to_owned()
        };
        Self { id: field("AccessKeyId"), secret: field("SecretAccessKey"), url, _child: child }
    }

    /// Returns a client of the bucket with this secret.
    fn client(&self, secret: &str) -> ObjectStorage {
        let settings = Settings {
            bucket: BUCKET.into(),
            endpoint: Some(self.url.parse().unwrap()),
            region: "us-east-1".into(),
            access_key_id: self.id.clone(),
            secret_access_key: secret.to_owned().into(),
            prefix: String::new(),
            path_style: true,
            threshold: 0,
            timeout: Duration::from_secs(30),
        };
        ObjectStorage::new(settings).unwrap()
    }
}

/// Sends a request about the user of the test to IAM, and returns the response.
async fn iam(url: &str, fields: &[(&str, &str)]) -> String {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs([("Version", "2010-05-08"), ("UserName", "postrider")]).extend_pairs(fields);
    let request = Client::new().post(url).header("authorization", IAM);
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
