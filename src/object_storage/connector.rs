//! Lets `object_store`, which signs the requests and reads the responses of S3, send them with [`crate::http_client`].

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient as StoreClient, HttpConnector, HttpError as StoreError, HttpErrorKind, HttpRequest, HttpResponse,
    HttpResponseBody, HttpService,
};

use crate::http_client::{BoxError, HttpClient, HttpError, Settings, system_tls};

/// Maximum idle connections to the object store.
const IDLE_CONNECTIONS: usize = 16;
/// Shorter than the idle timeouts of object stores, so that a request rarely meets a connection that is being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Sends the requests of an object store.
#[derive(Debug)]
struct Service(HttpClient);

/// Returns [`Service`] to the builder of the object store.
#[derive(Debug)]
pub(super) struct Connector(StoreClient);

impl Connector {
    /// Creates the client. The operator has chosen the object store, so its addresses are not checked.
    pub(super) fn new() -> Result<Self, rustls::Error> {
        let lookup = |name: String| {
            async move {
                let found = tokio::net::lookup_host((name, 0)).await.map_err(BoxError::from)?;
                Ok(found.map(|address| address.ip()).collect())
            }
            .boxed()
        };
        let settings = Settings {
            https_only: false,
            idle_per_host: IDLE_CONNECTIONS,
            idle_timeout: IDLE_TIMEOUT,
            // Objects are read as a stream, or into memory that is reserved for them.
            response_limit: usize::MAX,
        };
        let client = HttpClient::new(system_tls()?, std::sync::Arc::new(lookup), settings);
        Ok(Self(StoreClient::new(Service(client))))
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<StoreClient> {
        Ok(self.0.clone())
    }
}

impl HttpService for Service {
    // Written out, because `async_trait` is not a dependency of this crate.
    fn call<'a, 'r>(
        &'a self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, StoreError>> + Send + 'r>>
    where
        'a: 'r,
        Self: 'r,
    {
        Box::pin(async move {
            let (head, body) = request.into_parts();
            // Bodies have one part, which is not copied.
            let body = body.collect().await?.to_bytes();
            let response = self.0.send(Request::from_parts(head, Full::new(body))).await.map_err(failed)?;
            Ok(response.map(|body| {
                HttpResponseBody::new(body.map_err(|error| StoreError::new(HttpErrorKind::Interrupted, error)))
            }))
        })
    }
}

/// All requests can be repeated: no key is used for two objects.
fn failed(error: HttpError) -> StoreError {
    let kind = match &error {
        HttpError::Request(error) if error.is_connect() => HttpErrorKind::Connect,
        _ => HttpErrorKind::Request,
    };
    StoreError::new(kind, error)
}
