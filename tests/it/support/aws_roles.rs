//! The services from which programs get the temporary credentials of their role in AWS: the metadata of an instance (`IMDSv2`), the
//! credentials of a container, and STS. The credentials expire so soon that programs fetch new ones for almost every request.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use chrono::TimeDelta;
use postrider::clock::{Clock as _, SystemClock};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The token of a container or a pod, with which it may get credentials.
pub const TOKEN: &str = "token-of-the-pod";
/// How long credentials are valid.
const VALID: TimeDelta = TimeDelta::minutes(4);
const METADATA: &str = "/latest/meta-data/iam/security-credentials/";

type Issued = Arc<Mutex<(String, String)>>;

/// The server; it stops when it is dropped.
pub struct AwsRoles {
    address: SocketAddr,
    issued: Issued,
    task: JoinHandle<()>,
}

impl AwsRoles {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let issued = Issued::default();
        let router = Router::new().fallback(respond).with_state(issued.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, issued, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Issues credentials with this id and session token from now on.
    pub fn issue(&self, id: &str, session_token: &str) {
        *self.issued.lock().unwrap() = (id.to_owned(), session_token.to_owned());
    }
}

impl Drop for AwsRoles {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(State(issued): State<Issued>, method: Method, uri: Uri, headers: HeaderMap) -> Response<Body> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (id, token) = issued.lock().unwrap().clone();
    let expiration = (SystemClock.now() + VALID).format("%Y-%m-%dT%H:%M:%SZ");
    let json = format!(
        r#"{{"Code": "Success", "AccessKeyId": "{id}", "SecretAccessKey": "secret", "Token": "{token}", "Expiration": "{expiration}"}}"#
    );
    let query = uri.query().unwrap_or_default();
    let body = match (method, uri.path()) {
        (Method::PUT, "/latest/api/token") if !header("x-aws-ec2-metadata-token-ttl-seconds").is_empty() => {
            "session".into()
        }
        (Method::GET, METADATA) if header("x-aws-ec2-metadata-token") == "session" => "the-role".into(),
        (Method::GET, path)
            if path == format!("{METADATA}the-role") && header("x-aws-ec2-metadata-token") == "session" =>
        {
            json
        }
        (Method::GET, "/container") if header("authorization") == TOKEN => json,
        (Method::POST, "/")
            if query.contains("Action=AssumeRoleWithWebIdentity")
                && query.contains(&format!("WebIdentityToken={TOKEN}")) =>
        {
            format!(
                "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>\
                 <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey><SessionToken>{token}</SessionToken>\
                 <Expiration>{expiration}</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
            )
        }
        _ => return Response::builder().status(StatusCode::FORBIDDEN).body(Body::empty()).unwrap(),
    };
    Response::new(Body::from(body))
}
