//! Traces, exported with OTLP if the standard `OTEL_*` variables ask for it. `docs/traces.md` describes the spans.
//!
//! - Off by default: then each function here reads one atomic and returns.
//! - A request continues the caller's trace (W3C Trace Context). An attempt is a separate trace, because hours may lie
//!   between, and links to the span of its message, whose ids follow from the message's id (`ids`). So nothing is
//!   stored with a message.
//! - No span has an address of a person, a subject or a reply's text.

mod environment;
mod export;
mod ids;

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::Poll;

use hyper::header::{AUTHORIZATION, HeaderMap};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Link, Span as _, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceState,
    Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use uuid::Uuid;

pub use export::{Exporter, TraceSetupError, start};

/// The tracer of this process, if traces are exported.
static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Attribute with the public id of a message.
const MESSAGE_ID: &str = "postrider.message.id";
/// Attribute of the span of a request with a valid API key. It is not exported.
const AUTHENTICATED: &str = "postrider.authenticated";
/// Attribute with the kind of an error.
const ERROR_TYPE: &str = "error.type";

/// A span that ends when it is dropped. It does nothing if it is not recorded. Boxed, because it is kept in the futures of all
/// attempts, traced or not.
#[derive(Debug, Default)]
pub struct Span(Option<Box<opentelemetry_sdk::trace::Span>>);

impl Span {
    /// Marks the span as failed.
    pub fn fail(&mut self, kind: &'static str) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(""));
            span.set_attribute(KeyValue::new(ERROR_TYPE, kind));
        }
    }
}

/// Returns whether spans are recorded.
pub fn are_on() -> bool {
    TRACER.get().is_some()
}

/// Starts a child of the current span. Without a current span that is recorded, it is not recorded either.
pub fn child(name: &'static str) -> Span {
    let Some(tracer) = TRACER.get() else { return Span::default() };
    let parent = Context::current();
    if !parent.span().span_context().is_sampled() {
        return Span::default();
    }
    Span(Some(Box::new(tracer.build_with_context(SpanBuilder::from_name(name), &parent))))
}

/// A span in which other code runs: spans that it starts are children. It ends when it is dropped.
#[derive(Debug, Clone, Default)]
pub struct Scope(Option<Context>);

impl Scope {
    fn new(tracer: &SdkTracer, builder: SpanBuilder, parent: &Context) -> Self {
        let span = tracer.build_with_context(builder, parent);
        // A span that is not sampled is kept, so that its children are not sampled either.
        Self(Some(parent.with_span(span)))
    }

    /// Returns whether the span is recorded.
    pub fn is_recorded(&self) -> bool {
        self.0.as_ref().is_some_and(|context| context.span().is_recording())
    }

    /// Sets an attribute.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Marks the span as failed.
    pub fn fail(&self, kind: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_status(Status::error(""));
            context.span().set_attribute(KeyValue::new(ERROR_TYPE, kind));
        }
    }

    /// Runs work within the span.
    pub fn run<F: Future>(&self, work: Pin<&mut F>) -> impl Future<Output = F::Output> {
        Within { work, scope: self.0.clone() }
    }
}

/// Work within a span.
struct Within<'a, F> {
    work: Pin<&'a mut F>,
    scope: Option<Context>,
}

impl<F: Future> Future for Within<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<F::Output> {
        let _attached = self.scope.clone().map(Context::attach);
        self.work.as_mut().poll(cx)
    }
}

/// Methods that name a span; any other is `_OTHER`, so that clients cannot create names.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
/// Maximum size of `tracestate`, which every span of the request keeps. Longer ones are ignored.
const MAX_TRACE_STATE: usize = 512;

/// The headers from which the caller's trace is read.
struct TraceHeaders<'a>(HeaderExtractor<'a>);

impl Extractor for TraceHeaders<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).filter(|value| !key.eq_ignore_ascii_case("tracestate") || value.len() <= MAX_TRACE_STATE)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys()
    }
}

/// Starts the span of a request, which continues the caller's trace if the request has `traceparent` and an API key; without it, a
/// call within this process continues the current one. `route` is the pattern of its path, never the path.
///
/// The caller decides whether its trace is exported, so the span is exported only if the key is valid ([`authenticated`]).
pub fn request(headers: &HeaderMap, method: &str, route: &str) -> Scope {
    let Some(tracer) = TRACER.get() else { return Scope::default() };
    let parent = if headers.contains_key(AUTHORIZATION) {
        let headers = TraceHeaders(HeaderExtractor(headers));
        TraceContextPropagator::new().extract_with_context(&Context::current(), &headers)
    } else {
        Context::current()
    };
    let method = METHODS.into_iter().find(|known| *known == method).unwrap_or("_OTHER");
    let attributes = [
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", route.to_owned()),
        KeyValue::new("url.scheme", "http"),
    ];
    let builder = SpanBuilder::from_name(format!("{method} {route}"));
    Scope::new(tracer, builder.with_kind(SpanKind::Server).with_attributes(attributes), &parent)
}

/// Notes that the API key of the current request is valid.
pub fn authenticated() {
    if TRACER.get().is_some() {
        Context::current().span().set_attribute(KeyValue::new(AUTHENTICATED, true));
    }
}

/// Exports the span of an accepted message, to which the spans of its attempts link. It links to the current request.
/// `shown` is the message's public id.
pub fn message(message: Uuid, shown: impl FnOnce() -> String) {
    let Some(tracer) = TRACER.get() else { return };
    let request = Context::current().span().span_context().clone();
    let links = if request.is_sampled() { vec![Link::with_context(request)] } else { Vec::new() };
    let builder = SpanBuilder::from_name("message")
        .with_kind(SpanKind::Producer)
        .with_links(links)
        .with_attributes([KeyValue::new(MESSAGE_ID, shown())]);
    drop(ids::with(ids::message(message), || tracer.build_with_context(builder, &Context::new())));
}

/// Starts the span of an attempt at a message: a new trace, which is exported if the message's span was.
pub fn attempt(message: Uuid, shown: impl FnOnce() -> String) -> Scope {
    let Some(tracer) = TRACER.get() else { return Scope::default() };
    let (trace, span) = ids::message(message);
    let accepted = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default());
    let builder = SpanBuilder::from_name("attempt")
        .with_kind(SpanKind::Client)
        .with_links(vec![Link::with_context(accepted)])
        .with_attributes([KeyValue::new(MESSAGE_ID, shown())]);
    ids::with(ids::attempt(message), || Scope::new(tracer, builder, &Context::new()))
}
