//! An object store with the requests of S3 that the service uses, and with failures that a test switches on. It refuses
//! requests without a signature (Signature Version 4), and bodies that do not have the signed SHA-256; whether the signature is
//! right, `object_storage/independent.rs` checks with another implementation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri};
use postrider::config::{Config, SecretKey};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::uploads::sha256;

/// The bucket.
pub const BUCKET: &str = "files";

/// What the store does with requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Works,
    /// Every response is 503.
    Down,
    /// There is no response.
    Silent,
    /// Objects are stored, but there is no response.
    SilentAfterPut,
    /// Objects are stored, but the response is 500.
    FailsAfterPut,
}

struct Shared {
    objects: Mutex<BTreeMap<String, Bytes>>,
    mode: Mutex<Mode>,
    requests: Mutex<Vec<(Method, String)>>,
    /// What the next PUT waits for.
    held: Mutex<Option<oneshot::Receiver<()>>>,
    /// The id and the session token of the only access key that works.
    key: Mutex<(String, Option<String>)>,
}

/// The server; it stops when it is dropped.
pub struct S3Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl S3Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (objects, mode) = (Mutex::default(), Mutex::new(Mode::Works));
        let key = Mutex::new(("test".to_owned(), None));
        let shared = Arc::new(Shared { objects, mode, requests: Mutex::default(), held: Mutex::default(), key });
        let router = Router::new().fallback(respond).layer(DefaultBodyLimit::disable()).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, shared, task }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Configures the service to store large attachments here.
    pub fn configure(&self, config: &mut Config) {
        configure(config, &self.url());
    }

    pub fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// Lets the next PUT wait until the returned value is dropped. Only then is its object stored.
    pub fn hold_next_put(&self) -> oneshot::Sender<()> {
        let (release, held) = oneshot::channel();
        *self.shared.held.lock().unwrap() = Some(held);
        release
    }

    /// Refuses all requests that are not signed with this access key, and have not this session token.
    pub fn accept_only(&self, id: &str, session_token: Option<&str>) {
        *self.shared.key.lock().unwrap() = (id.to_owned(), session_token.map(str::to_owned));
    }

    /// Returns the keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.objects().keys().cloned().collect()
    }

    /// Removes the only object, as a fault of the store would, and returns its key and its bytes.
    pub fn lose(&self) -> (String, Bytes) {
        let mut objects = self.objects();
        assert_eq!(objects.len(), 1);
        objects.pop_first().unwrap()
    }

    /// Stores an object without a request.
    pub fn insert(&self, key: String, bytes: Bytes) {
        self.objects().insert(key, bytes);
    }

    /// Returns the number of requests with this method.
    pub fn count(&self, method: &Method) -> usize {
        self.shared.requests.lock().unwrap().iter().filter(|(one, _)| one == method).count()
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Bytes>> {
        self.shared.objects.lock().unwrap()
    }
}

/// Configures the service to store large attachments at this URL.
pub fn configure(config: &mut Config, endpoint: &str) {
    let section = &mut config.attachments;
    section.bucket = Some(BUCKET.into());
    section.endpoint = Some(endpoint.parse().unwrap());
    section.access_key_id = Some("test".into());
    section.secret_access_key = Some(SecretKey::from("a secret of the tests".to_owned()));
    section.prefix = Some("postrider/".into());
}

/// Returns the same settings as environment variables.
pub fn variables(endpoint: &str) -> Vec<(&'static str, String)> {
    let key = [
        ("POSTRIDER_ATTACHMENTS__ACCESS_KEY_ID", "test".to_owned()),
        ("POSTRIDER_ATTACHMENTS__SECRET_ACCESS_KEY", "a secret of the tests".to_owned()),
    ];
    bucket_variables(endpoint).into_iter().chain(key).collect()
}

/// Returns the settings without an access key as environment variables.
pub fn bucket_variables(endpoint: &str) -> [(&'static str, String); 3] {
    [
        ("POSTRIDER_ATTACHMENTS__BUCKET", BUCKET.to_owned()),
        ("POSTRIDER_ATTACHMENTS__ENDPOINT", endpoint.to_owned()),
        ("POSTRIDER_ATTACHMENTS__PREFIX", "postrider/".to_owned()),
    ]
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn respond(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mode = *shared.mode.lock().unwrap();
    let Some(key) = uri.path().strip_prefix(&format!("/{BUCKET}/")) else {
        return error(StatusCode::NOT_FOUND, "NoSuchBucket");
    };
    shared.requests.lock().unwrap().push((method.clone(), key.to_owned()));
    match mode {
        Mode::Down => return error(StatusCode::SERVICE_UNAVAILABLE, "SlowDown"),
        Mode::Silent => return std::future::pending().await,
        Mode::Works | Mode::SilentAfterPut | Mode::FailsAfterPut => {}
    }
    let access_key = shared.key.lock().unwrap().clone();
    if !is_signed(&headers, &body, &access_key) {
        return refused(&headers);
    }
    let response = Response::builder().header("last-modified", "Mon, 23 Nov 2026 12:00:00 GMT");
    match method {
        Method::PUT => {
            let held = shared.held.lock().unwrap().take();
            if let Some(held) = held {
                let _ = held.await;
            }
            let tag = format!("\"{}\"", &sha256(&body)[..32]);
            shared.objects.lock().unwrap().insert(key.to_owned(), body);
            match mode {
                Mode::SilentAfterPut => std::future::pending().await,
                Mode::FailsAfterPut => error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
                _ => response.header("etag", tag).body(Body::empty()).unwrap(),
            }
        }
        Method::GET | Method::HEAD => {
            let Some(bytes) = shared.objects.lock().unwrap().get(key).cloned() else {
                return error(StatusCode::NOT_FOUND, "NoSuchKey");
            };
            let response = response.header("etag", "\"tag\"").header("content-length", bytes.len());
            response.body(if method == Method::HEAD { Body::empty() } else { Body::from(bytes) }).unwrap()
        }
        Method::DELETE => {
            shared.objects.lock().unwrap().remove(key);
            Response::builder().status(StatusCode::NO_CONTENT).body(Body::empty()).unwrap()
        }
        _ => error(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
    }
}

/// Returns whether a request has a signature with this access key that covers its body, its host and its session token.
fn is_signed(headers: &HeaderMap, body: &Bytes, (id, token): &(String, Option<String>)) -> bool {
    let authorization = header(headers, "authorization");
    let signed = ["host", "x-amz-content-sha256", "x-amz-date"].into_iter();
    let mut signed = signed.chain(token.as_ref().map(|_| "x-amz-security-token"));
    authorization.starts_with(&format!("AWS4-HMAC-SHA256 Credential={id}/"))
        && authorization.contains("/us-east-1/s3/aws4_request")
        && signed.all(|name| authorization.contains(name))
        && !header(headers, "x-amz-date").is_empty()
        && header(headers, "x-amz-content-sha256") == sha256(body)
        && header(headers, "x-amz-security-token") == token.as_deref().unwrap_or_default()
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Refuses a request in the words of AWS, which quote the session token.
fn refused(headers: &HeaderMap) -> Response<Body> {
    let token = header(headers, "x-amz-security-token");
    let quoted =
        format!("<CanonicalRequest>PUT\nx-amz-security-token:{token}\n</CanonicalRequest><Token-0>{token}</Token-0>");
    with_error(
        StatusCode::FORBIDDEN,
        &format!("<Code>SignatureDoesNotMatch</Code><Message>Check the key.</Message>{quoted}"),
    )
}

fn error(status: StatusCode, code: &str) -> Response<Body> {
    with_error(status, &format!("<Code>{code}</Code>"))
}

fn with_error(status: StatusCode, elements: &str) -> Response<Body> {
    let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>{elements}</Error>");
    Response::builder().status(status).header("content-type", "application/xml").body(Body::from(xml)).unwrap()
}
