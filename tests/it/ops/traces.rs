//! Traces are exported with OTLP: a request with its commit, and attempts that link to their message.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use reqwest::Method;
use serde_json::json;
use tokio::net::TcpListener;

use super::metrics_pages::{metrics_with, serve_with_metrics};
use crate::support::client::{Api, ApiResponse, message};
use crate::support::postgres::Database;
use crate::support::process::{Service, key};
use crate::support::smtp::SmtpServer;
use crate::support::until::until;

const LIMIT: Duration = Duration::from_secs(30);
/// The trace and the span of the caller.
const CALLER: (&str, &str) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");

/// A collector that keeps what it receives.
struct Collector {
    endpoint: String,
    requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
}

impl Collector {
    async fn start() -> Self {
        let requests: Arc<Mutex<Vec<ExportTraceServiceRequest>>> = Arc::default();
        let kept = requests.clone();
        let receive = async move |body: Bytes| {
            kept.lock().unwrap().push(ExportTraceServiceRequest::decode(body).expect("a valid request"));
        };
        let router = Router::new().route("/v1/traces", post(receive));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { endpoint, requests }
    }

    fn spans(&self) -> Vec<Span> {
        let requests = self.requests.lock().unwrap();
        let scopes = requests.iter().flat_map(|request| &request.resource_spans).flat_map(|all| &all.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    /// Waits until spans with these names have arrived, and returns one of each.
    async fn wait_for<const N: usize>(&self, names: [&str; N]) -> [Span; N] {
        let find = |name: &str| self.spans().into_iter().find(|span| span.name == name);
        until("spans", LIMIT, async || {
            let missing: Vec<_> = names.iter().filter(|name| find(name).is_none()).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("without {missing:?}")) }
        })
        .await;
        names.map(|name| find(name).expect("a span"))
    }
}

async fn start(database: &Database, smtp: &SmtpServer, variables: &[(&str, &str)]) -> (Service, Api) {
    let mut command = serve_with_metrics(&database.url, smtp.address(), &[]);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").envs(variables.iter().copied());
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().expect("an API"), key(&database.url).await);
    (service, api)
}

fn attribute(span: &Span, name: &str) -> Option<String> {
    let value = span.attributes.iter().find(|attribute| attribute.key == name)?.value.clone()?.value?;
    Some(match value {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    })
}

fn hex(id: &[u8]) -> String {
    id.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Returns the trace and the span that the only link of a span names.
fn link(span: &Span) -> (&[u8], &[u8]) {
    let [link] = &span.links[..] else { panic!("{:?}", span.links) };
    (&link.trace_id, &link.span_id)
}

#[tokio::test]
async fn request_and_attempts_are_linked_traces() {
    let (collector, database, smtp) = (Collector::start().await, Database::new(), SmtpServer::start().await);
    let (service, api) = start(&database, &smtp, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)]).await;
    let (caller_trace, caller_span) = CALLER;
    let request = api
        .request(Method::POST, "/v1/messages")
        .header("traceparent", format!("00-{caller_trace}-{caller_span}-01"))
        .json(&message(json!({"subject": "A private subject"})));
    let sent = ApiResponse::to(request).await;
    assert_eq!(sent.status, 202, "{}", sent.body);
    let names = ["POST /v1/messages", "commit", "message", "attempt", "connect", "mail", "data"];
    let [request, commit, accepted, attempt, steps @ ..] = collector.wait_for(names).await;

    assert_eq!((hex(&request.trace_id), hex(&request.parent_span_id)), (caller_trace.into(), caller_span.into()));
    assert_eq!(attribute(&request, "http.response.status_code").as_deref(), Some("202"));
    assert_eq!((&commit.trace_id, &commit.parent_span_id), (&request.trace_id, &request.span_id));
    assert_eq!(link(&accepted), (&request.trace_id[..], &request.span_id[..]));
    assert_eq!(link(&attempt), (&accepted.trace_id[..], &accepted.span_id[..]));
    assert!(attempt.parent_span_id.is_empty() && attempt.trace_id != accepted.trace_id, "a trace of its own");
    for span in [&accepted, &attempt] {
        assert_eq!(attribute(span, "postrider.message.id").as_deref(), sent.body["id"].as_str());
    }
    for step in &steps {
        assert_eq!((&step.trace_id, &step.parent_span_id), (&attempt.trace_id, &attempt.span_id), "{}", step.name);
    }
    for (name, value) in [("postrider.verdict", "accepted"), ("smtp.response.code", "250"), ("postrider.attempt", "1")]
    {
        assert_eq!(attribute(&attempt, name).as_deref(), Some(value), "{name}");
    }

    assert!(service.terminate().await.success());
    let exported = format!("{:?}", collector.requests.lock().unwrap());
    assert!(!exported.contains('@') && !exported.contains("private"), "{exported}");
    assert!(exported.contains("service.name") && exported.contains("service.version"), "{exported}");
}

#[tokio::test]
async fn only_callers_with_a_key_decide_what_is_exported() {
    let (collector, database, smtp) = (Collector::start().await, Database::new(), SmtpServer::start().await);
    let variables =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint), ("OTEL_TRACES_SAMPLER", "parentbased_always_off")];
    let (service, api) = start(&database, &smtp, &variables).await;
    let parent = format!("00-{}-{}-01", CALLER.0, CALLER.1);
    let read = async |path: &str, key: Option<&str>| {
        let mut request = api.anonymous(Method::GET, path).header("traceparent", &parent);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!((read("/v1/keys", None).await, read("/v1/keys", Some("pr_wrong")).await), (401, 401));
    assert_eq!((read("/none", None).await, read("/none", Some("pr_wrong")).await), (404, 404));
    assert_eq!(read("/v1/lanes", Some(&api.key)).await, 200);
    let [request] = collector.wait_for(["GET /v1/lanes"]).await;
    assert_eq!(hex(&request.trace_id), CALLER.0);
    assert_eq!(attribute(&request, "postrider.authenticated"), None);
    assert!(service.terminate().await.success());
    let names: Vec<String> = collector.spans().into_iter().map(|span| span.name).collect();
    assert!(names.iter().all(|name| name == "GET /v1/lanes"), "{names:?}");
}

#[tokio::test]
async fn later_attempts_of_another_process_link_to_the_message() {
    let (collector, database, smtp) = (Collector::start().await, Database::new(), SmtpServer::start().await);
    let endpoint = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*format!("{}/v1/traces", collector.endpoint));
    let mut command = serve_with_metrics(&database.url, smtp.address(), &["--only", "api"]);
    command.env("OTEL_BSP_SCHEDULE_DELAY", "50").env(endpoint.0, endpoint.1);
    let service = Service::start(command).await;
    let api = Api::new(service.address.clone().expect("an API"), key(&database.url).await);
    api.send(json!({})).await;
    let [accepted] = collector.wait_for(["message"]).await;
    assert!(service.terminate().await.success());
    let (service, _) = start(&database, &smtp, &[endpoint]).await;
    let [attempt] = collector.wait_for(["attempt"]).await;
    assert_eq!(link(&attempt), (&accepted.trace_id[..], &accepted.span_id[..]));
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn sampler_of_the_environment_applies() {
    let (collector, database, smtp) = (Collector::start().await, Database::new(), SmtpServer::start().await);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", &*collector.endpoint), ("OTEL_TRACES_SAMPLER", "always_off")];
    let (service, api) = start(&database, &smtp, &variables).await;
    api.send(json!({})).await;
    smtp.received(1).await;
    assert!(service.terminate().await.success());
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn absent_collector_delays_nothing_and_is_counted() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let (mut service, api) = start(&database, &smtp, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")]).await;
    api.send(json!({})).await;
    smtp.received(1).await;
    service.logged_event("trace_export_failed").await;
    let base = service.address.clone().expect("an API");
    let page = metrics_with(&base, "postrider_trace_spans_total{result=\"failed\"} ").await;
    assert!(!page.contains("postrider_trace_spans_total{result=\"failed\"} 0\n"), "{page}");
    assert!(service.terminate().await.success());
}

#[tokio::test]
async fn invalid_trace_settings_do_not_stop_the_service() {
    let (database, smtp) = (Database::new(), SmtpServer::start().await);
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")];
    let (mut service, api) = start(&database, &smtp, &variables).await;
    let line = service.logged_event("traces_off").await;
    assert!(line["error"].as_str().unwrap().contains("`grpc`"), "{line}");
    api.send(json!({})).await;
    smtp.received(1).await;
    assert!(service.terminate().await.success());
}
