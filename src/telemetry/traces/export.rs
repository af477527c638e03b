//! Exports ended spans in batches, over a bounded queue: if the collector is slow or away, spans are dropped and counted,
//! and nothing waits for it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt as _;
use http_body_util::Full;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{HttpClient as OtlpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, Protocol, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanExporter as _, SpanProcessor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::environment::{self, Limits};
use super::ids::Ids;
use super::{AUTHENTICATED, TRACER};
use crate::http_client::{self, HttpClient, RESPONSE_LIMIT, Settings};
use crate::metrics::METRICS;
use crate::metrics::labels::SpanResult;
use crate::telemetry::RateLimitedLog;

/// How long a stop waits for the export of the last spans.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// The name of this service, unless `OTEL_SERVICE_NAME` or `OTEL_RESOURCE_ATTRIBUTES` gives another one.
const SERVICE_NAME: &str = "postrider";

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceSetupError {
    /// `OTEL_TRACES_EXPORTER` has an unsupported value.
    #[error("OTEL_TRACES_EXPORTER is `{0}`; set it to `otlp` or `none`")]
    Exporter(String),
    /// The protocol is not supported.
    #[error("the OTLP protocol is `{0}`; set OTEL_EXPORTER_OTLP_PROTOCOL to `http/protobuf`, or remove it")]
    Protocol(String),
    /// The endpoint or its headers are not valid.
    #[error(transparent)]
    Exporting(#[from] ExporterBuildError),
    /// TLS cannot be set up.
    #[error("cannot set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Exports the spans of this process until it is stopped.
#[derive(Debug)]
pub struct Exporter {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Exporter {
    /// Exports the spans that have ended, for a limited time.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = tokio::time::timeout(STOP_LIMIT, self.task).await;
    }
}

/// Starts to record and export spans if the environment asks for it. A second call does nothing.
pub fn start() -> Result<Option<Exporter>, TraceSetupError> {
    let Some(limits) = environment::limits(|name| std::env::var(name).ok())? else { return Ok(None) };
    let client = Collector { http: client()?, timeout: limits.timeout };
    let builder = SpanExporter::builder().with_http().with_http_client(client).with_protocol(Protocol::HttpBinary);
    let mut exporter = builder.build()?;
    let resource = resource();
    exporter.set_resource(&resource);
    let (sender, spans) = mpsc::channel(limits.queue);
    let provider = SdkTracerProvider::builder()
        .with_id_generator(Ids::default())
        .with_resource(resource)
        .with_span_processor(Queue(sender))
        .build();
    if TRACER.set(provider.tracer(SERVICE_NAME)).is_err() {
        return Ok(None);
    }
    let stop = CancellationToken::new();
    let task = tokio::spawn(run(exporter, spans, limits, stop.clone()));
    Ok(Some(Exporter { task, stop }))
}

/// Describes this process. The variables of the environment win.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let is_named = std::env::var_os("OTEL_SERVICE_NAME").is_some()
        || std::env::var("OTEL_RESOURCE_ATTRIBUTES").is_ok_and(|attributes| attributes.contains("service.name="));
    let mut own = vec![
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", uuid::Uuid::new_v4().to_string()),
    ];
    own.retain(|attribute| detected.get(&attribute.key).is_none());
    if !is_named {
        own.push(KeyValue::new("service.name", SERVICE_NAME));
    }
    Resource::builder().with_attributes(own).build()
}

fn client() -> Result<HttpClient, rustls::Error> {
    let lookup: http_client::Lookup = Arc::new(|name| {
        async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    });
    let settings = Settings {
        https_only: false,
        idle_per_host: 1,
        idle_timeout: Duration::from_mins(1),
        response_limit: RESPONSE_LIMIT,
    };
    Ok(HttpClient::new(http_client::system_tls()?, lookup, settings))
}

/// The client for requests to the collector.
#[derive(Debug)]
struct Collector {
    http: HttpClient,
    timeout: Duration,
}

impl OtlpClient for Collector {
    fn send_bytes<'a, 'b>(
        &'a self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(async move {
            tokio::time::timeout(self.timeout, async {
                let mut response = self.http.send(request.map(Full::new)).await?;
                let mut body = BytesMut::new();
                while let Some(chunk) = http_client::chunk(&mut response).await? {
                    body.extend_from_slice(&chunk);
                }
                Ok(Response::from_parts(response.into_parts().0, body.freeze()))
            })
            .await?
        })
    }
}

/// Passes ended spans to the task that exports them.
#[derive(Debug)]
struct Queue(mpsc::Sender<SpanData>);

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, mut span: SpanData) {
        let attributes = span.attributes.len();
        span.attributes.retain(|attribute| attribute.key.as_str() != AUTHENTICATED);
        let is_authenticated = span.attributes.len() < attributes;
        // Whether a trace of a caller is exported is the caller's decision, so the caller must be known.
        if span.parent_span_is_remote && !is_authenticated {
            return;
        }
        if span.span_context.is_sampled() && self.0.try_send(span).is_err() {
            METRICS.trace_spans.get((SpanResult::Dropped,)).increment(1);
        }
    }

    /// The task exports them.
    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Exports spans until it is stopped and the queue is empty.
async fn run(exporter: SpanExporter, mut spans: mpsc::Receiver<SpanData>, limits: Limits, stop: CancellationToken) {
    let failures = RateLimitedLog::default();
    loop {
        let mut batch = Vec::new();
        fill(&mut batch, &mut spans, limits, &stop).await;
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let result = match exporter.export(batch).await {
            Ok(()) => SpanResult::Exported,
            Err(error) => {
                if let Some(batches) = failures.note(Instant::now()) {
                    tracing::warn!(
                        event = "trace_export_failed",
                        %error,
                        batches,
                        "failed to export traces; dropped this batch and continuing with the next; check the collector"
                    );
                }
                SpanResult::Failed
            }
        };
        METRICS.trace_spans.get((result,)).increment(count);
    }
}

/// Collects spans for one request. The batch stays empty only if this process stops and no spans are left.
async fn fill(
    batch: &mut Vec<SpanData>,
    spans: &mut mpsc::Receiver<SpanData>,
    limits: Limits,
    stop: &CancellationToken,
) {
    tokio::select! {
        _ = spans.recv_many(batch, limits.batch) => {}
        () = stop.cancelled() => {
            spans.close();
            spans.recv_many(batch, limits.batch).await;
            return;
        }
    }
    let wait = tokio::time::sleep(limits.delay);
    tokio::pin!(wait);
    while batch.len() < limits.batch {
        tokio::select! {
            received = spans.recv_many(batch, limits.batch - batch.len()) => if received == 0 { return },
            () = &mut wait => return,
            () = stop.cancelled() => return,
        }
    }
}
